"""Tools whose pages are read by a model that the run serves: Ray Serve, vLLM, a search actor.

The nano policy writes no sensible summary; what is shown is the way there and back, and that the
model goes with the run.
"""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from ray import serve

from cluster.openers import Keys
from cluster.services import start_search
from core.config import load_config
from core.records import ToolCall, ToolResult
from envs.nano.world import World
from tests.builders import make_rollout_id

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.ray]

SERVED = (
    "{path: models/nano/policy, dtype: float32, max_context: 2048, max_ongoing: 2, "
    "num_cpus_per_replica: 0.2, kv_cache_gib: 0.25}"
)


async def test_browse_is_answered_by_the_served_model_which_goes_with_the_run(
    ray_cluster: str, tmp_path: Path
) -> None:
    config = load_config(
        "nano",
        overrides=[
            *(f"run.root={tmp_path}", "run.name=reads", "tools.timeout_s=240"),
            "tools.summariser={max_page_tokens: 512, max_answer_tokens: 32, timeout_s: 100}",
            f"tools.summariser.served={SERVED}",
        ],
    )
    (page, *_) = World().pages()
    call = ToolCall(name="browse", arguments=json.dumps({"url": page.url, "query": "founded?"}))
    with ExitStack() as stack:
        toolbox, _ = start_search(config, config.run_dir.resolve(), Keys(), stack)
        assert "served-summariser-reads" in serve.status().applications
        first: ToolResult = await toolbox.call(call, rollout_id=make_rollout_id())
        again = await toolbox.call(call, rollout_id=make_rollout_id())
    assert "served-summariser-reads" not in serve.status().applications

    assert first.error is None
    assert first.upstream_calls == 1, "the model; the page lies on disk"
    assert (again.text, again.cached) == (first.text, True)
