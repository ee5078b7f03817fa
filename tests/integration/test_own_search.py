"""The README's "Use your own search", run as it stands there, against the loopback fakes."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from envs.fake_web.app import KEY
from envs.fake_web.server import nano_web, overrides_for, serving_on_a_thread

pytestmark = [pytest.mark.integration, pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    *("rollout.kv_cache_gib=0.2", "rollout.max_sequences=16", "train.groups_per_step=2"),
    *("train.group_size=4", "eval.num_tasks=2", "train.max_empty_batches=50"),
)
"""What makes the runs short; everything else is as the block says."""


def readme_block() -> str:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Use your own search")[1]
    found = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def test_the_block_is_short() -> None:
    assert len(readme_block().splitlines()) < 10


def test_the_block_runs_as_it_stands(tmp_path: Path) -> None:
    """The key that the user would put in is the fakes', and the addresses are theirs."""
    fake = nano_web(tmp_path / "web")
    with serving_on_a_thread(fake) as address:
        extra = " ".join(f"'{one}'" for one in (*overrides_for(address), *SMALL))
        script = f"""set -e
gensearcher() {{ command gensearcher "$@" run.root='{tmp_path}/runs' {extra}; }}
docker() {{ true; }}
{readme_block().replace("=... ", f"={KEY} ")}"""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("serper", "searxng"):
        summary = json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        assert summary["steps"] == 1
        assert fake.calls[name] > 0, "its searches went to the service"
    assert fake.calls["img"] > 0, "images were downloaded"
