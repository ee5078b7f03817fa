"""The environment of Ray workers follows from the recipe alone."""

from pathlib import Path

from actors.runtime_env import worker_env
from core.config import build_config


def test_a_laptop_gets_one_thread_per_library_and_no_compiler(tmp_path: Path) -> None:
    local = {"path": str(tmp_path)}
    env = worker_env(build_config({"policy": local, "render": local}))

    assert env["OMP_NUM_THREADS"] == "1"
    assert env["TORCHDYNAMO_DISABLE"] == "1"
    assert env["DS_ACCELERATOR"] == "cpu"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_gpu_keeps_its_threads_its_compiler_and_the_hub() -> None:
    tree = {
        "policy": {"path": "Qwen/Qwen3-VL-8B-Instruct"},
        "rollout": {"num_gpus_per_worker": 1},
        "learner": {"device": "cuda"},
    }
    env = worker_env(build_config(tree))

    for name in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "DS_ACCELERATOR", "HF_HUB_OFFLINE"):
        assert name not in env
    assert env["VLLM_USE_V2_MODEL_RUNNER"] == "0"
