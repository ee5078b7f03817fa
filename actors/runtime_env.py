"""The environment variables of every Ray worker process, in one place.

They are read when a library is imported, so they must be there before a worker starts:
`ray.init(runtime_env={"env_vars": worker_env(config)})`. Imports no heavy library.
"""

from pathlib import Path

from core.config import Config


def worker_env(config: Config) -> dict[str, str]:
    """What the engines of this run need. A machine without a GPU gets the settings of a laptop."""
    env = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The engine lives on a thread of the rollout actor, not in a process of its own.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # One sampler on CPU and GPU: actors/vllm_worker.py hooks into this runner's.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    if config.rollout.num_gpus_per_worker == 0:
        env |= {
            # Several processes share few cores: more threads spin against each other.
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Without it the first request with logprobs compiles C++ for over ten seconds.
            "TORCHDYNAMO_DISABLE": "1",
        }
    if config.learner.device == "cpu":
        env["DS_ACCELERATOR"] = "cpu"
    if all(Path(path).is_dir() for path in (config.policy.path, config.render.path)):
        env["HF_HUB_OFFLINE"] = "1"
    return env
