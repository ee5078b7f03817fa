"""`gensearcher sft` on the nano policy: the teacher plays, two steps, a policy to use next."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.run_folder import policy_of_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_fine_tuning_on_the_teacher_leaves_a_policy(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["sft", f"run.root={tmp_path}", "sft.steps=2", "sft.batch_size=4"]
    )

    assert result.exit_code == 0, result.output
    assert "8 samples" in result.output, "the faultless teacher answers every task"
    assert "step 2/2" in result.output
    assert policy_of_checkpoint(tmp_path / "sft" / "sft" / "step_000002").name == "policy"


def test_only_the_nano_world_has_a_teacher(tmp_path: Path) -> None:
    arguments = ["sft", f"run.root={tmp_path}", "tasks.source=rl_data", "tasks.path=x.json"]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert "sft.data: none is set" in result.output
