"""A held-out evaluation as W&B shows it: scalars, a strip of pictures per task, a table.

Enters: a `Heldout` and the members it was made of. Leaves: one entry of the tracker.
"""

from collections.abc import Sequence

from PIL import Image

from cluster.report.showcase import Showcase
from cluster.report.summary import Heldout
from cluster.track.tracking import TrackedPicture, TrackedTable, Tracker
from core.protocols import ImageStore
from core.records import Answer, ImageRef, Member, Score
from envs.images import decode_rgb

GAP = 2
"""White pixels between two pictures of a strip."""
COLUMNS = ("task", "hops", "prompt", "answer", "reward", "ending", "pictures")


def track_heldout(
    tracker: Tracker, heldout: Heldout, *, members: Sequence[Member], images: ImageStore
) -> None:
    """Log it under the step at which it was made."""
    shown = {showcase.task_id: showcase for showcase in heldout.showcases}
    pictures = {
        m.trajectory.task.task_id: picture
        for m in members
        if m.trajectory
        and m.trajectory.task.task_id in shown
        and (picture := _picture(m, images)) is not None
    }
    tracker.log_evaluation(
        {name: estimate.mean for name, estimate in heldout.estimates.items()},
        step=heldout.step,
        pictures=list(pictures.values()),
        table=TrackedTable(
            columns=COLUMNS,
            rows=tuple(
                (*_words(s), pictures[s.task_id].image if s.task_id in pictures else None)
                for s in shown.values()
            ),
        ),
    )


def _words(shown: Showcase) -> tuple[str | float | None, ...]:
    return (
        shown.task_id,
        shown.hops,
        shown.prompt,
        shown.gen_prompt,
        shown.reward,
        shown.ending,
    )


def _picture(member: Member, images: ImageStore) -> TrackedPicture | None:
    """Chosen references, rendered image and ground truth in a row; None when there is none."""
    refs = _refs(member)
    if member.trajectory is None or not refs:
        return None
    reward = f"{member.outcome.value:.2f}" if isinstance(member.outcome, Score) else "none"
    caption = f"reward {reward}: {member.trajectory.task.prompt}"
    return TrackedPicture(
        image=strip([decode_rgb(images.get(ref)) for ref in refs]), caption=caption
    )


def _refs(member: Member) -> list[ImageRef]:
    trajectory = member.trajectory
    if trajectory is None:
        return []
    chosen = trajectory.answer.chosen if isinstance(trajectory.answer, Answer) else ()
    rendered = (member.rendered.image,) if member.rendered else ()
    truth = (trajectory.task.ground_truth,) if trajectory.task.ground_truth else ()
    return [*chosen, *rendered, *truth]


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, scaled to the height of the last one."""
    height = pictures[-1].height
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height)) for p in pictures]
    width = sum(p.width for p in scaled) + GAP * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row
