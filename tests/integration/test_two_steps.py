"""Two training steps on a local Ray with every real engine and a tiny random policy.

vLLM in an EnvRunner, the search actor over the nano world, diffusers behind Serve, the pixel
judge, DeepSpeed in a LearnerGroup, weights through the object store; then a second process's worth
of the same run, which goes on from the checkpoint.
"""

from pathlib import Path

import pytest

from cluster.launch import launch
from cluster.recorder import METRICS, TRAJECTORIES, read_rows
from cluster.status import StepReport
from core.config import Config, build_config
from core.records import Task
from envs.images import FileImageStore
from envs.tasks import open_train_tasks
from tests.builders_diffusion import save_nano_pipeline
from tests.taught_model import build_taught_policy

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


SYSTEM = "Tools: search, image_search, browse."


def make_config(folder: Path) -> Config:
    return build_config(
        {
            "run": {"name": "two", "root": str(folder / "runs")},
            "policy": {"path": str(folder / "policy")},
            "rollout": {
                "max_turns": 3,
                "max_tokens_per_turn": 100,
                "max_context": 1024,
                "temperature": 1.0,
                "top_p": 1.0,
                "kv_cache_gib": 0.1,
                "max_sequences": 16,
            },
            "render": {"path": str(folder / "renderer")},
            "train": {"steps": 2, "groups_per_step": 2, "group_size": 3, "checkpoint_every": 1},
            "eval": {"num_tasks": 2},
        }
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("two")
    prompts = [task.prompt for task in nano_tasks(folder, num=8)]
    build_taught_policy(folder / "policy", prompts=prompts, system=SYSTEM)
    save_nano_pipeline(folder / "renderer")
    return make_config(folder)


def nano_tasks(folder: Path, *, num: int) -> list[Task]:
    source = open_train_tasks(Config(), images=FileImageStore(folder / "images"))
    return [source.task(ordinal) for ordinal in range(num)]


def test_two_steps_then_a_third_from_the_checkpoint(config: Config) -> None:
    reports: list[StepReport] = []
    with launch(config) as system:
        system.train(on_step=reports.append)
        result = system.evaluate()
        counters = system.status()
    assert [report.step for report in reports] == [1, 2]
    check_steps(reports)
    assert result.policy_version == 2
    assert result.num_failed == 0
    assert counters.tool_calls > 0
    check_files(config)

    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 3})})
    with launch(longer, resume=True) as system:
        assert system.step == 2
        system.train(on_step=reports.append)
    assert [report.step for report in reports] == [1, 2, 3]
    check_steps(reports)
    assert [row["step"] for row in read_rows(config.run_dir / METRICS)] == [1, 2, 3]


def check_steps(reports: list[StepReport]) -> None:
    """The learner sees the rollouts' probabilities, and each step really changes the policy."""
    for report in reports:
        metrics = report.metrics
        assert metrics["staleness/max"] == 0
        assert metrics["learner/logprob_diff/mean"] < 1e-4
        assert metrics["learner/grad_norm"] > 0
        assert metrics["groups/consumed"] == 2
        assert metrics["groups/failed"] == 0


def check_files(config: Config) -> None:
    rows = list(read_rows(config.run_dir / TRAJECTORIES))
    trained = [row for row in rows if row["mode"] == "train"]
    assert all("score" in row for row in trained)
    assert any(row["rendered"] for row in trained), "nothing was rendered"
    assert any(row["shown"] for row in trained), "no image was found"
    versions = {
        span[0] for row in trained for turn in row["turns"] for span in turn["policy_versions"]
    }
    assert versions == {0, 1}
    names = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert names == ["step_000001", "step_000002"]
