"""The seconds of a plan: each stage of one step, were nothing overlapped."""

import math

from cluster.plan import rates
from cluster.plan.model_sizes import BYTES, ImageModelSize, PolicySize
from cluster.plan.rates import EpisodeShape, Figure
from core.config import Config


def stage_seconds(
    config: Config, policy: PolicySize, model: ImageModelSize | None
) -> tuple[Figure, ...]:
    """Seconds of each stage of one step, were nothing overlapped; without a `model`, a provider's
    draws."""
    shape = rates.NANO_EPISODE if config.policy.system_prompt == "nano" else rates.FULL_EPISODE
    return (
        _rollout_seconds(config, policy, shape),
        _tool_seconds(config, shape),
        _render_seconds(config, model, shape) if model else _api_render_seconds(config),
        _judge_seconds(config),
        _learn_seconds(config, policy, shape),
        _broadcast_seconds(config, policy),
    )


def num_episodes(config: Config) -> int:
    return config.train.groups_per_step * config.train.group_size


def _rollout_seconds(config: Config, policy: PolicySize, shape: EpisodeShape) -> Figure:
    rollout, width = config.rollout, BYTES[config.policy.dtype]
    sampled = shape.turns * shape.tokens_per_turn
    episodes = math.ceil(num_episodes(config) / rollout.num_workers)
    if rollout.num_gpus_per_worker == 0:
        per_token = rates.CPU_TOKEN_S.value + policy.params * rates.CPU_TOKEN_S_PER_PARAM.value
        formula = f"{episodes} episodes x {sampled} tokens x {per_token * 1e3:.2g} ms"
        source = _sources(
            rates.CPU_TOKEN_S.source, rates.CPU_TOKEN_S_PER_PARAM.source, shape.source
        )
        return _seconds("rollout", episodes * sampled * per_token, formula, source)
    together = min(episodes, rollout.max_sequences)
    waves = math.ceil(episodes / together)
    cache = together * shape.context_tokens * policy.kv_bytes_per_token(dtype=config.policy.dtype)
    read = (policy.params * width + cache) / rollout.tensor_parallel
    per_step = read / rates.GPU_BYTES_PER_S.value
    return _seconds(
        "rollout",
        waves * sampled * per_step,
        f"{waves} waves x {sampled} tokens x ({policy.params * width / 1e9:.1f} GB weights + "
        f"{cache / 1e9:.1f} GB KV of {together}) / {rollout.tensor_parallel} GPUs / bandwidth",
        _sources(rates.GPU_BYTES_PER_S.source, shape.source),
    )


def _tool_seconds(config: Config, shape: EpisodeShape) -> Figure:
    is_local = set(config.tools.providers) <= {"nano", "local"}
    rate = rates.LOCAL_SEARCH_S if is_local else rates.WEB_SEARCH_S
    calls = shape.turns - 1
    return _seconds(
        "tool",
        calls * rate.value,
        f"{calls} calls in a row x {rate.value:g} s; episodes wait side by side",
        _sources(rate.source, shape.source),
    )


def _render_seconds(config: Config, model: ImageModelSize, shape: EpisodeShape) -> Figure:
    render = config.render
    images = num_episodes(config) * len(render.seeds)
    tokens = _image_tokens(render.width, render.height, model) * (1 + shape.references)
    passes = 2 if render.true_cfg_scale > 1 else 1
    flops = 2 * model.transformer_params * tokens * render.steps * passes
    rate = rates.GPU_FLOPS if render.num_gpus_per_replica > 0 else rates.CPU_FLOPS
    waves = math.ceil(images / render.max_replicas)
    return _seconds(
        "render",
        waves * flops / rate.value,
        f"{images} images / {render.max_replicas} replicas x 2 FLOP x "
        f"{model.transformer_params:.3g} x {tokens:,} tokens x {render.steps} steps x {passes}",
        _sources(rate.source, model.source, "attention not counted"),
    )


def _api_render_seconds(config: Config) -> Figure:
    images, api = num_episodes(config) * len(config.render.seeds), config.render.api
    waves, rate = math.ceil(images / api.max_in_flight), rates.API_IMAGE_S
    by_rate_s = images / api.per_second
    formula = (
        f"the longer of {waves} waves of {api.max_in_flight} images x {rate.value:g} s and "
        f"{images} images / {api.per_second:g} a second"
    )
    return _seconds("render", max(waves * rate.value, by_rate_s), formula, rate.source)


def _image_tokens(width: int, height: int, model: ImageModelSize) -> int:
    return math.ceil(width / model.pixels_per_token) * math.ceil(height / model.pixels_per_token)


def _judge_seconds(config: Config) -> Figure:
    judge = config.judge
    rate = rates.PIXEL_JUDGE_S if judge.kind == "pixels" else rates.API_JUDGE_S
    waves = math.ceil(
        num_episodes(config) * len(config.render.seeds) * judge.votes / judge.max_in_flight
    )
    formula = f"{waves} waves of {judge.max_in_flight} calls x {rate.value:g} s"
    return _seconds("judge", waves * rate.value, formula, rate.source)


def _learn_seconds(config: Config, policy: PolicySize, shape: EpisodeShape) -> Figure:
    learner = config.learner
    tokens = num_episodes(config) * shape.context_tokens
    trained = policy.trained_params(learner)
    count = learner.num_learners
    adam = trained * rates.ADAM_S_PER_PARAM.value * learner.updates_per_step / count
    if learner.device == "cpu":
        per_token = (
            rates.CPU_TRAIN_TOKEN_S.value
            + policy.text_params * rates.CPU_TRAIN_TOKEN_S_PER_PARAM.value
        )
        shared = f" / {count} learners" if count > 1 else ""
        return _seconds(
            "learn",
            tokens * per_token / count + adam,
            f"{tokens:,} tokens x {per_token * 1e3:.2g} ms{shared} + Adam {adam:.2g} s",
            _sources(
                rates.CPU_TRAIN_TOKEN_S.source,
                rates.CPU_TRAIN_TOKEN_S_PER_PARAM.source,
                rates.ADAM_S_PER_PARAM.source,
                shape.source,
            ),
        )
    tokens = math.ceil(tokens / count)
    compute = 8 * policy.text_params * tokens / rates.GPU_TRAIN_FLOPS.value
    width = BYTES[learner.dtype]
    if learner.zero_stage == 3:
        batches = math.ceil(tokens / learner.micro_batch_tokens)
        weights = 2 * policy.text_params * width  # forward and backward
        gradients = 2 * trained * 4  # there and back, to be added to
        moved = batches * (weights + gradients)
        how = (
            f"{batches} micro-batches x (weights twice, gradients there and back in float32: "
            f"{(weights + gradients) / 1e9:.3g} GB)"
        )
    else:
        moved = trained * (4 + width) * learner.updates_per_step
        how = f"gradients out in float32, weights back in: {moved / 1e9:.3g} GB"
    stream = moved / rates.PCIE_BYTES_PER_S.value
    return _seconds(
        "learn",
        compute + stream + adam,
        f"8 FLOP x {policy.text_params:.3g} x {tokens:,} tokens (forward, recompute, backward) "
        f"{compute:.0f} s + {how} {stream:.1f} s + Adam on the host {adam:.1f} s",
        _sources(
            rates.GPU_TRAIN_FLOPS.source,
            rates.PCIE_BYTES_PER_S.source,
            rates.ADAM_S_PER_PARAM.source,
            shape.source,
        ),
    )


def _broadcast_seconds(config: Config, policy: PolicySize) -> Figure:
    payload = policy.params * BYTES[config.policy.dtype] * config.rollout.num_workers
    rate = rates.BROADCAST_BYTES_PER_S
    formula = (
        f"{payload / 1e9:.3g} GB to {config.rollout.num_workers} workers at "
        f"{rate.value / 1e9:g} GB/s"
    )
    return _seconds("broadcast", payload / rate.value, formula, rate.source)


def _seconds(stage: str, value: float, formula: str, source: str) -> Figure:
    return Figure(where=stage, what="", value=value, unit="s", formula=formula, source=source)


def _sources(*sources: str) -> str:
    return "; ".join(dict.fromkeys(sources))
