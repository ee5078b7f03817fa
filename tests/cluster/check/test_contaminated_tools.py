"""The recipe's words reach the guard: a benchmark made of the nano world's own flags.

The second toolbox opens the store of the first: what was kept before the benchmark was named is
held back as well.
"""

import json
from pathlib import Path

from cluster.openers import Keys, open_toolbox, prepare_corpus
from core.config import load_config
from core.records import ToolCall
from envs.nano.world import World
from tests.builders import make_rollout_id


async def test_a_named_benchmark_is_held_back_by_the_tools_of_a_run(tmp_path: Path) -> None:
    world = World()
    flag = next(iter(world.images()))
    page = max(world.pages(), key=lambda page: len(f"{page.title} {page.text}".split()))
    (tmp_path / "truth.png").write_bytes(flag.png)
    row = {"id": 1, "prompt": f"{page.title} {page.text}", "gt_image": "truth.png"}
    (tmp_path / "bench.json").write_text(json.dumps([row]))
    calls = [
        ToolCall(name="image_search", arguments=json.dumps({"query": flag.caption})),
        ToolCall(name="browse", arguments=json.dumps({"url": page.url, "query": page.title})),
    ]

    async def results(launch: str, *overrides: str) -> tuple[list[str], str, dict[str, int]]:
        config = load_config("nano", overrides=[f"run.root={tmp_path}", *overrides])
        run_dir = config.run_dir
        prepare_corpus(config, run_dir)
        toolbox = open_toolbox(config, run_dir, Keys(), launch=launch)
        shown, read = [await toolbox.call(call, rollout_id=make_rollout_id()) for call in calls]
        blocked = dict(toolbox.counters().blocked)
        await toolbox.close()
        return [image.title for image in shown.images], read.text, blocked

    titles, text, blocked = await results("0")
    assert flag.caption in titles
    assert page.url in text
    assert blocked == {}
    titles, text, blocked = await results("1", f"tools.guard.benchmark={tmp_path / 'bench.json'}")
    assert flag.caption not in titles
    assert page.url not in text
    assert blocked["image"] == 1
    assert blocked["prompt"] == 1
