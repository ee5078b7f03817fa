from typing import Any

from PIL import Image

from cluster.report.summary import make_heldout
from cluster.track.tracked_heldout import GAP, strip, track_heldout
from core.records import Member
from tests.builders import make_answer, make_member, make_rendered, make_task, make_trajectory
from tests.builders import png_bytes as png
from tests.fakes.images import MemoryImageStore


class FakeTracker:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def log_evaluation(self, metrics: Any, *, step: int, pictures: Any, table: Any) -> None:
        entry = {"metrics": metrics, "step": step, "pictures": pictures, "table": table}
        self.events.append(entry)


def graded_member(images: MemoryImageStore) -> Member:
    """One reference chosen, one picture rendered, one ground truth; 32 x 32 each."""
    chosen, rendered, truth = (images.put(png(c)) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    trajectory = make_trajectory(
        task=make_task(ground_truth=truth), answer=make_answer(chosen=[chosen])
    )
    return make_member(trajectory=trajectory, rendered=make_rendered(image=rendered))


def test_a_strip_puts_pictures_side_by_side_at_the_height_of_the_last() -> None:
    row = strip([Image.new("RGB", (20, 40), "red"), Image.new("RGB", (30, 20), "blue")])

    assert row.size == (10 + GAP + 30, 20)
    assert row.getpixel((0, 0)) == (255, 0, 0)
    assert row.getpixel((10, 0)) == (255, 255, 255)
    assert row.getpixel((10 + GAP, 0)) == (0, 0, 255)


def test_an_evaluation_is_tracked_with_a_strip_and_a_row_for_each_shown_task() -> None:
    images, tracker = MemoryImageStore(), FakeTracker()
    member = graded_member(images)
    heldout = make_heldout([member], when="after", step=7, num_showcase=1)

    track_heldout(tracker, heldout, members=[member], images=images)  # type: ignore[arg-type]

    (event,) = tracker.events
    assert event["step"] == 7
    assert event["metrics"]["reward"] == heldout.estimates["reward"].mean
    (picture,) = event["pictures"]
    colours = [picture.image.getpixel((n * (32 + GAP) + 1, 1)) for n in range(3)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert len(event["table"].rows) == 1
    assert len(event["table"].rows[0]) == len(event["table"].columns)
    assert event["table"].rows[0][-1] is picture.image
