"""What an agent is, as a digest that changes with anything that decides its answers."""

import hashlib
import json
from pathlib import Path

from cluster.bench.plan import EvalPlan
from core.config import Config

BLOCK_BYTES = 1 << 16
BLOCKS = 64
"""Of a weight file, so many blocks spread over it are read: any training step changes them."""


def agent_identity(plan: EvalPlan, config: Config, *, system_prompt: str) -> str:
    """Policy, system prompt, sampling, limits, tools and seed."""
    if plan.agent == "openai":
        policy = f"openai {config.agent.base_url} {config.agent.model}"
    else:
        policy = f"{policy_digest(config.policy.path)} {config.policy.dtype}"
    rollout, sampling = config.rollout, config.eval
    settings = {
        "policy": policy,
        "system_prompt": system_prompt,
        "sampling": [sampling.temperature, sampling.top_p, config.run.seed],
        "limits": [rollout.max_turns, rollout.max_tokens_per_turn, rollout.max_context],
        "tools": config.tools.model_dump(mode="json", exclude={"store", "max_store_gib"}),
        "fallback": plan.fallback,
    }
    return f"{plan.agent}@{_sha(json.dumps(settings, sort_keys=True).encode())[:16]}"


def policy_digest(path: str) -> str:
    """Of a model folder: small files whole, large ones in blocks. A hub id is itself."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    files = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".jinja", ".safetensors"))
    return _sha(json.dumps([[f.name, _file_digest(f)] for f in files]).encode())


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    seen = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= BLOCKS * BLOCK_BYTES:
            seen.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
                seen.update(file.read(BLOCK_BYTES))
    return seen.hexdigest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
