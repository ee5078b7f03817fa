"""What the live screen says for a given status."""

import io

from rich.console import Console

from cluster.track.screen import Screen, draw_status, sparkline
from tests.builders_cluster import make_status


def test_one_frame_names_the_stage_the_oldest_item_and_the_time_left() -> None:
    console = Console(file=io.StringIO(), width=90, record=True)
    frame = draw_status(
        make_status(
            failures={"render": 2},
            last_metrics={
                "seconds/step": 9.04,
                "seconds/learn": 2.0,
                "seconds/rollout": 6.5,
                "dollars/run": 1.5,
            },
        ),
        title="demo",
        rewards=[0.2, 0.3, 0.5],
        elapsed_s=65,
        left_s=130,
    )
    console.print(frame)
    text = console.export_text()
    for words in (
        "3 of 10",
        "0.500",
        "+0.300 since the first",
        "render  oldest: render 7.2.0, 12 s",
        "9.0 s  rollout 6.5  learn 2.0",
        "1.50 so far",
        "2 of 8 ready",
        "200 calls, 75% from the cache",
        "render 2",
        "1:05 gone, 2:10 left",
    ):
        assert words in text


def test_bars_are_as_long_as_what_is_in_flight_and_no_longer_than_their_room() -> None:
    for rollouts, judges, cells in ((12, 1, (12, 1)), (400, 100, (40, 10)), (41, 1, (40, 1))):
        console = Console(file=io.StringIO(), width=90, record=True)
        status = make_status(in_flight={"rollout": rollouts, "judge": judges}, stage="judge")
        console.print(draw_status(status, title="", rewards=[], elapsed_s=0, left_s=None))
        lines = {
            name: line.count("━")
            for line in console.export_text().splitlines()
            for name in ("rollout", "judge", "render")
            if f" {name} " in line
        }
        assert (lines["rollout"], lines["judge"], lines["render"]) == (*cells, 0)


def test_before_the_first_step_it_says_that_there_is_no_score() -> None:
    console = Console(file=io.StringIO(), width=90, record=True)
    status = make_status(step=0, reward=None, tool_calls=0, oldest_item="")
    console.print(draw_status(status, title="demo", rewards=[], elapsed_s=1, left_s=None))
    text = console.export_text()
    assert "no score yet" in text
    assert "? left" in text


def test_a_log_gets_one_line_per_step() -> None:
    log = io.StringIO()
    with Screen(Console(file=log, width=120), title="demo", read_status=make_status) as screen:
        screen.step_done(0.25)
    assert log.getvalue().startswith("step 3/10 reward 0.250 tools 200 cached 150")


def test_the_trend_runs_from_the_lowest_to_the_highest_bar() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([]) == ""
