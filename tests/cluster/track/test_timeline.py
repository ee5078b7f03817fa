"""The timeline: what is open, what is quiet, and how seconds are counted once."""

import pytest

from cluster.track.timeline import Span, Timeline, covered


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_covered_counts_overlaps_once() -> None:
    assert covered([(0, 2), (1, 4), (5, 6)], since_s=1) == 4.0
    assert covered([(0, 10), (2, 3)], since_s=0) == 10.0
    assert covered([], since_s=0) == 0.0


def test_open_spans_tell_what_runs_longest_and_how_long_nothing_moved() -> None:
    clock = Clock()
    timeline = Timeline(lambda span: None, clock=clock)
    with timeline.span("render", "1.0.0"):
        clock.now += 2
        with timeline.span("judge", "2.0.0"):
            clock.now += 3
            assert timeline.in_flight == {"render": 1, "judge": 1}
            assert timeline.oldest is not None
            assert (timeline.oldest.kind, timeline.oldest.item) == ("render", "1.0.0")
            assert timeline.quiet_s == 3
    assert timeline.quiet_s == 0
    assert timeline.oldest is None


def test_a_span_ends_and_is_kept_even_when_its_work_fails() -> None:
    spans: list[Span] = []
    timeline = Timeline(spans.append, clock=Clock())
    with pytest.raises(ZeroDivisionError), timeline.span("render", "x"):
        raise ZeroDivisionError
    assert [span.kind for span in spans] == ["render"]
    assert timeline.in_flight == {}


def test_seconds_of_a_stage_are_counted_once_over_two_steps() -> None:
    clock = Clock()
    timeline = Timeline(lambda span: None, clock=clock)
    timeline.add(Span(kind="rollout", item="a", start_s=100, end_s=104))
    clock.now = 105
    metrics = timeline.end_step()
    assert (metrics["seconds/rollout"], metrics["seconds/idle"]) == (4, 1)
    timeline.add(Span(kind="rollout", item="b", start_s=102, end_s=107))
    clock.now = 107
    metrics = timeline.end_step()
    assert (metrics["seconds/rollout"], metrics["seconds/idle"]) == (3, 0)
    assert (metrics["seconds/render"], metrics["seconds/step"]) == (0, 2)


def test_a_pool_is_as_full_as_its_open_and_closed_spans_make_it() -> None:
    clock = Clock()
    timeline = Timeline(lambda span: None, places={"render": 2, "judge": 1}, clock=clock)
    timeline.add(Span(kind="render", item="a", start_s=98, end_s=104))
    with timeline.span("render", "b"):
        clock.now = 110
        metrics = timeline.end_step()
    assert metrics["pools/render_busy"] == (4 + 10) / 20
    assert metrics["pools/render_oldest_s"] == 0
    assert (metrics["pools/render_waiting"], metrics["pools/judge_busy"]) == (0, 0)


def test_tool_calls_that_are_reported_late_are_averaged_over_their_own_time() -> None:
    clock = Clock()
    timeline = Timeline(lambda span: None, places={"tool": 1}, clock=clock)
    clock.now = 110
    timeline.end_step()
    timeline.add(Span(kind="tool", item="a", start_s=100, end_s=105))
    assert timeline.end_step()["pools/tool_busy"] == 0.5
