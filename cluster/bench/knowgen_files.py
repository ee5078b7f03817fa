"""KnowGen results in the shapes that the published tools write and read (docs/benchmarks.md).

agent/results.json             one row per task: the episode, the grounded prompt, the references
agent/ref_images/              the references
generation/results.json        one row per task: what was drawn, of what
generation/images/{id}.png
generation/results_eval.json   the same rows with their grades, then three rows of means

Rows hold exactly the published fields. The three rows of means carry two more, which the tools
pass over: `na_rule`, and `missing`, the rule for rows without a score.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.bench.choices import Missing
from cluster.bench.pictures import ending, file_stem, write_as_is, write_png
from cluster.bench.rows import Judged, Reference, RowResult
from cluster.bench.rules import Rules
from cluster.bench.summary import cause_of
from core.benchmarks import POP_CULTURE_AND_NEWS, SCIENCE_AND_KNOWLEDGE
from core.files import write_json_atomic
from core.protocols import ImageStore, ImageVerdict
from core.records import StopReason
from rewards.aggregate import KScoreMeans, ScoredRow, knowgen_aggregate
from rewards.kscore import PAPER_NA_VALUE, WEIGHTS

TERMINATIONS = {
    StopReason.ANSWER: "answer",
    StopReason.NO_ANSWER: "no_answer",
    StopReason.BAD_ANSWER: "answer_parse_failed",
    StopReason.BAD_FORMAT: "unknown",
    StopReason.REPEATED: "repeated_response",
    StopReason.TOO_LONG: "max_response_length_exceeded",
}
"""The published names of how an episode ends; an episode that was not played is "answer"."""
RATIONALE_CHARS = 1000


def write_knowgen_files(
    rows: Sequence[RowResult], folder: Path, *, images: ImageStore, rules: Rules, missing: Missing
) -> None:
    """All three files and the pictures beside them, each written atomically."""
    agent, generation = folder / "agent", folder / "generation"
    write_json_atomic(
        agent / "results.json", [_agent_row(row, agent, images=images) for row in rows]
    )
    drawn = [_generation_row(row, generation, images=images) for row in rows]
    write_json_atomic(generation / "results.json", drawn)
    evaluated = [
        made | _evaluation(row, rules=rules) if row.drawn else made
        for row, made in zip(rows, drawn, strict=True)
    ]
    means = list(_means_rows(rows, rules=rules, missing=missing))
    write_json_atomic(generation / "results_eval.json", [*evaluated, *means])


def _agent_row(row: RowResult, folder: Path, *, images: ImageStore) -> dict[str, Any]:
    played = row.played
    references = []
    for chosen in played.references if played else ():
        place = _reference_file(row, chosen)
        write_as_is(chosen.image, folder / place, images=images)
        references.append(
            {
                "img_id": chosen.img_id,
                "note": chosen.note,
                "local_path": place,
                "url": chosen.page_url,
                "title": chosen.title,
            }
        )
    messages = []
    for message in played.messages if played else ():
        shown: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.images:
            shown["images"] = [f"sha256:{ref.sha256}" for ref in message.images]
        messages.append(shown)
    return {
        "id": row.item.row_id,
        "prompt": row.item.task.prompt,
        "meta": _meta(row),
        "termination": _termination(row),
        "trajectory_messages": messages,
        "gen_prompt": (played.gen_prompt or "") if played and not played.fallback else "",
        "reference_images": references,
        "gt_image": row.item.truth_path,
    }


def _termination(row: RowResult) -> str:
    if row.played is None:
        return "error"
    reason = row.played.stop_reason
    return TERMINATIONS[StopReason(reason)] if reason in list(StopReason) else "answer"


def _generation_row(row: RowResult, folder: Path, *, images: ImageStore) -> dict[str, Any]:
    """A row that no stage has reached yet is pending, in the published sense."""
    played, drawn = row.played, row.drawn
    if row.agent is None or (played is not None and row.render is None):
        return {"id": row.item.row_id, "pending": True}
    stem = file_stem(row.item.task.task_id)
    path = folder / "images" / f"{stem}.png"
    if drawn is not None:
        write_png(drawn.image, path, images=images)
    grounded = (played.gen_prompt or "") if played and not played.fallback else ""
    used = [f"../agent/{_reference_file(row, one)}" for one in played.references] if played else []
    made: dict[str, Any] = {
        "id": row.item.row_id,
        "prompt": row.item.task.prompt,
        "gen_prompt": grounded,
        "meta": _meta(row),
        "gt_image": row.item.truth_path,
        "used_prompt": (played.gen_prompt or "") if played else "",
        "used_images": used,
        "output_path": path.relative_to(folder).as_posix() if drawn else "",
        "success": drawn is not None,
    }
    if drawn is None:
        made["error"] = row.failure.message if row.failure else "no answer, so nothing was drawn"
    return made


def _reference_file(row: RowResult, chosen: Reference) -> str:
    """Relative to the agent's folder."""
    stem = f"{file_stem(row.item.task.task_id)}_{chosen.img_id}"
    return f"ref_images/{stem}{ending(chosen.image)}"


def _evaluation(row: RowResult, *, rules: Rules) -> dict[str, Any]:
    judged = row.judged
    if judged is None:
        error = row.failure.message if row.failure else cause_of(row)
        return {"eval_success": False, "scores": None, "error": error}
    return {"eval_success": True, "scores": _scores(judged, rules=rules), "error": None}


def _scores(judged: Judged, *, rules: Rules) -> dict[str, Any]:
    text = judged.grades["text_accuracy"]
    scores = {
        "rationale": judged.rationale[:RATIONALE_CHARS],
        **{name: judged.grades[name] for name in WEIGHTS},
        "overall": round(rules.row_score(judged.grades), 4),
    }
    if text is None:
        scores |= {"text_accuracy": PAPER_NA_VALUE, "text_accuracy_na": True}
    return scores


def _means_rows(
    rows: Sequence[RowResult], *, rules: Rules, missing: Missing
) -> Iterator[dict[str, Any]]:
    """Nothing when `fail` forbids a mean, or nothing was scored."""
    lost = [row for row in rows if row.judged is None]
    scored = [
        ScoredRow(category=row.item.task.meta.category, verdict=_verdict(row.judged.grades))
        for row in rows
        if row.judged is not None
    ]
    if missing == "zero":
        nothing = dict.fromkeys(WEIGHTS, 0.0)
        scored += [
            ScoredRow(category=row.item.task.meta.category, verdict=_verdict(nothing))
            for row in lost
        ]
    if not scored or (missing == "fail" and lost):
        return
    na_rule = rules.na_rule or "renormalise"
    made = knowgen_aggregate(scored, na_rule=na_rule)
    lines = {
        SCIENCE_AND_KNOWLEDGE: made.groups.get(SCIENCE_AND_KNOWLEDGE),
        POP_CULTURE_AND_NEWS: made.groups.get(POP_CULTURE_AND_NEWS),
        "overall_avg": made.overall,
    }
    for name, means in lines.items():
        yield {
            "summary_type": name,
            "avg_scores": _avg_scores(means),
            "count": means.count if means else 0,
            "na_rule": na_rule,
            "missing": missing,
        }


def _avg_scores(means: KScoreMeans | None) -> dict[str, float | None]:
    names = ("faithfulness", "visual_correctness", "aesthetics", "text_accuracy", "overall")
    values = {name: getattr(means, name) if means else None for name in names}
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def _verdict(grades: Mapping[str, float | None]) -> ImageVerdict:
    values: dict[str, Any] = {name: grades[name] for name in WEIGHTS}
    return ImageVerdict(rationale="", **values)


def _meta(row: RowResult) -> dict[str, str]:
    return {"category": row.item.label, "difficulty": row.item.task.meta.difficulty}
