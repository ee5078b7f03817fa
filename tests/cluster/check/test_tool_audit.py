"""The tools' half of an audit: a run that recorded, and one that replays it under other calls."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.check.audit import audit_json, audit_run
from cluster.check.tool_audit import ToolAudit, audit_tools
from cluster.openers import Keys, open_toolbox, prepare_corpus
from cluster.track.recorder import JsonlRecorder
from core.config import Config, load_config, save_config
from core.records import Member, ToolCall, ToolResult
from tests.builders import make_rollout_id, make_score, make_trajectory, make_turn

RECORDED = ("Torvi", "Denve", "flag", "treaty")


def run_config(root: Path, name: str, *overrides: str) -> Config:
    store = f"tools.store={root / 'store'}"
    config = load_config(
        "nano", overrides=[f"run.root={root}", f"run.name={name}", store, *overrides]
    )
    config.run_dir.mkdir(parents=True)
    save_config(config, config.run_dir / "config.yaml")
    return config


async def play(config: Config, *queries: str) -> list[ToolResult]:
    """Ask the run's own tools."""
    prepare_corpus(config, config.run_dir)
    toolbox = open_toolbox(config, config.run_dir, Keys())
    calls = [
        ToolCall(name="search", arguments=json.dumps({"queries": [query]})) for query in queries
    ]
    results = [await toolbox.call(call, rollout_id=make_rollout_id()) for call in calls]
    await toolbox.close()
    return results


def write(config: Config, results: list[ToolResult]) -> Path:
    """As the trajectories of a run whose episodes got these results."""
    recorder = JsonlRecorder(config.run_dir)
    for result in results:
        trajectory = make_trajectory(turns=(make_turn(tool_result=result),))
        member = Member(
            rollout_id=make_rollout_id(),
            trajectory=trajectory,
            rendered=None,
            outcome=make_score(0.5),
        )
        recorder.member(member, mode="eval", step=1)
    recorder.close()
    return config.run_dir


@pytest.fixture
async def recording(tmp_path: Path) -> Path:
    config = run_config(tmp_path, "recorded", "tools.mode=record")
    return write(config, await play(config, *RECORDED, RECORDED[0]))


async def test_a_recorded_run_agrees_with_its_own_recording(recording: Path) -> None:
    audit = audit_tools(recording)
    assert (audit.mode, audit.calls, audit.compared_calls, audit.equal_calls) == ("record", 5, 5, 5)
    assert (audit.cached_calls, audit.tool_errors, audit.different) == (1, 0, ())
    assert audit.is_sound


async def test_a_replay_is_equal_where_it_asks_the_same(tmp_path: Path, recording: Path) -> None:
    config = run_config(tmp_path, "replayed", "tools.mode=replay", "tools.on_miss=empty")
    audit = audit_tools(write(config, await play(config, "flag", "Torvi", "never asked", "flag")))
    assert (audit.calls, audit.compared_calls, audit.equal_calls) == (4, 3, 3)
    assert (audit.upstream_calls, audit.misses, audit.stand_ins) == (0, {"empty": 1}, 0)
    assert audit.is_sound


async def test_every_handling_of_a_miss_is_told_apart(tmp_path: Path, recording: Path) -> None:
    config = run_config(tmp_path, "failing", "tools.mode=replay", "tools.on_miss=fail")
    audit = audit_tools(write(config, await play(config, "never asked")))
    assert (audit.tool_errors, audit.misses) == (1, {"fail": 1})
    config = run_config(tmp_path, "near", "tools.mode=replay", "tools.on_miss=nearest")
    audit = audit_tools(write(config, await play(config, "the treaty please")))
    assert (audit.stand_ins, audit.misses, audit.compared_calls) == (1, {"nearest": 1}, 0)


async def test_a_replay_that_differs_or_asks_the_web_is_not_sound(
    tmp_path: Path, recording: Path
) -> None:
    config = run_config(tmp_path, "changed", "tools.mode=replay")
    (flag,) = await play(config, "flag")
    folder = write(config, [flag, replace(flag, text=f"{flag.text} more")])
    audit = audit_tools(folder)
    assert (audit.compared_calls, audit.equal_calls, len(audit.different)) == (2, 1, 1)
    assert audit.different == ('["search",{"queries":["flag"],"top_k":3}]',)
    assert not audit.is_sound
    config = run_config(tmp_path, "asking", "tools.mode=replay")
    assert not audit_tools(write(config, [replace(flag, upstream_calls=1)])).is_sound


async def test_a_failed_call_is_compared_in_a_replay_only(tmp_path: Path, recording: Path) -> None:
    config = run_config(tmp_path, "later", "tools.mode=replay")
    (flag,) = await play(config, "flag")
    failed = replace(flag, text="search unavailable", error="search: no answer in time")
    assert len(audit_tools(write(config, [failed])).different) == 1
    write(load_config(str(recording / "config.yaml")), [failed])
    assert audit_tools(recording).different == ()


def test_a_live_run_and_one_without_a_config_are_only_counted(tmp_path: Path) -> None:
    config = run_config(tmp_path, "live")
    bad = ToolResult(text="bad arguments: not valid JSON")
    folder = write(config, [bad, ToolResult(text="x", call_key="k", upstream_calls=2)])
    expected = ToolAudit(calls=1, bad_calls=1, upstream_calls=2)
    assert audit_tools(folder) == expected
    (folder / "config.yaml").unlink()
    assert audit_tools(folder) == expected


async def test_the_whole_audit_names_the_calls_that_differ(tmp_path: Path, recording: Path) -> None:
    config = run_config(tmp_path, "whole", "tools.mode=replay")
    (flag,) = await play(config, "flag")
    folder = write(config, [replace(flag, text="other")] * 3)
    found = audit_json(audit_run(folder))
    assert not found["sound"]
    assert found["different_calls"] == 3
    assert found["found"]["different_calls"] == ['["search",{"queries":["flag"],"top_k":3}]']
