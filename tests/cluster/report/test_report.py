"""The report is one well-formed file that holds the pictures and escapes what the web wrote."""

import json
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cluster.report.report import write_report
from cluster.report.summary import delta_json, heldout_json, make_heldout, save_heldout
from core.errors import ConfigError
from core.records import FoundImage, ImageRef, RenderedImage, ToolCall, ToolResult
from tests.builders import (
    make_answer,
    make_member,
    make_render_request,
    make_score,
    make_score_part,
    make_task,
    make_trajectory,
    make_turn,
    png_bytes,
)

VOID = {"meta", "img", "br", "i", "line", "rect", "circle", "polyline"}


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def _store(folder: Path, colour: tuple[int, int, int]) -> ImageRef:
    import hashlib

    data = png_bytes(colour)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / f"{digest}.png").write_bytes(data)
    return ImageRef(sha256=digest, media_type="image/png", width=32, height=32)


def span_of(kind: str, item: str, start_s: float, seconds: float) -> dict[str, Any]:
    times = {"start_s": start_s, "end_s": start_s + seconds}
    return {"event": "span", "kind": kind, "item": item, **times}


def write_example_run(folder: Path, *, num_tasks: int = 4) -> None:
    """A run folder as a finished training leaves it."""
    red, blue = _store(folder, (200, 0, 0)), _store(folder, (0, 0, 200))
    heldouts = []
    for when, step, value in (("before", 0, 0.3), ("after", 3, 0.8)):
        members = []
        for ordinal in range(num_tasks):
            task = make_task(ordinal, ground_truth=red, reference=red, prompt="Draw <b>it</b>")
            found = FoundImage(ref=red, title="flag of <script>", page_url="")
            turn = make_turn(
                text="<think>find Torvi</think>",
                tool_call=ToolCall(name="image_search", arguments='{"query": "flag of Torvi"}'),
                tool_result=ToolResult(text="", images=(found,)),
            )
            trajectory = make_trajectory(
                task=task,
                turns=(turn, make_turn()),
                answer=make_answer(chosen=(red,)),
                shown=(("IMG_001", found),),
            )
            parts = [
                make_score_part("visual_correctness", value, weight=0.5),
                make_score_part("text_reward", value, weight=0.5),
            ]
            rendered = RenderedImage(
                image=blue, request=make_render_request(), seconds=0.1, cached=False
            )
            members.append(
                make_member(
                    make_score(value, parts=parts),
                    task=task,
                    trajectory=trajectory,
                    rendered=rendered,
                )
            )
        heldouts.append(make_heldout(members, when=when, step=step, num_showcase=2))
        save_heldout(heldouts[-1], folder)
    rows = [{"step": s, "reward/mean": 0.2 * s, "seconds/rollout": 2.0} for s in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = [
        span
        for step in (1, 2, 3)
        for span in (
            span_of("rollout", "0.0.0", 10.0 * step, 6),
            span_of("learn", f"step {step}", 10.0 * step + 7, 2),
            span_of("broadcast", f"version {step}", 10.0 * step + 9, 1),
        )
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    summary = {
        "steps": 3,
        "seed": 0,
        "git_commit": "abc",
        "peak_memory_gib": 1.0,
        "stopped": "stopped after step 3 of 4: the run has cost $1.50",
        "dollars": {"judge": 1.5, "total": 1.5, "per_gained_point": 3.0},
        "heldout": {
            "before": heldout_json(heldouts[0]),
            "after": heldout_json(heldouts[1]),
            "delta": delta_json(*heldouts),
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_finished_run_becomes_one_self_contained_page(tmp_path: Path) -> None:
    write_example_run(tmp_path)
    page = write_report(tmp_path).read_text()
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.sources
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert "<script" not in page
    assert "flag of &lt;script&gt;" in page
    assert "Draw &lt;b&gt;it&lt;/b&gt;" in page
    assert "+0.500" in page
    assert "1.0 GiB, $1.50. It stopped after step 3 of 4: the run has cost $1.50." in page


def test_the_step_that_is_drawn_has_its_number_and_no_pause_between_two_processes(
    tmp_path: Path,
) -> None:
    write_example_run(tmp_path)
    assert "Step 2 of 3" in write_report(tmp_path).read_text()
    spans = [
        span_of("broadcast", "version 3", 29.0, 1.0),
        # The second process begins with the checkpoint of step 2.
        span_of("broadcast", "version 2", 4999.0, 1.0),
        span_of("rollout", "9.0.0", 5000.0, 3.0),
        span_of("broadcast", "version 3", 5003.0, 1.0),
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(s) + "\n" for s in spans))

    page = write_report(tmp_path).read_text()

    assert "Step 3 of 3" in page
    assert "rollout 9.0.0: 3.00 s" in page


def test_of_a_long_run_only_the_drawn_step_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    steps = [
        [span_of("tool", f"{step}.{n}", 100.0 * step + n, 1.0) for n in range(50)]
        + [span_of("broadcast", f"version {step}", 100.0 * step + 90, 1.0)]
        for step in range(1, 201)
    ]
    text = "".join(json.dumps(span) + "\n" for step in steps for span in step)
    (tmp_path / "events.jsonl").write_text(text)
    write_report(tmp_path)  # what the first one loads stays

    tracemalloc.start()
    page = write_report(tmp_path).read_text()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "Step 101 of 200" in page
    assert "tool 101.7" in page
    assert "tool 9.7" not in page
    assert peak < 3 * len(text), "all spans as rows take nine times the file"


def test_a_run_without_results_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no held-out results"):
        write_report(tmp_path)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew')
    assert "nothing was recorded" in write_report(tmp_path).read_text()
