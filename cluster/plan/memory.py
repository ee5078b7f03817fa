"""The memory of a plan: weights, gradients, optimizer, activations and caches, with formulas."""

from collections.abc import Iterator

from actors.image_models import is_api
from cluster.plan import rates
from cluster.plan.model_sizes import BYTES, ImageModelSize, PolicySize, served_params
from cluster.plan.placement import served_models
from cluster.plan.rates import Figure
from core.config import Config
from core.sections.served import ServedConfig

ACTIVATION_BYTES = 34
"""Bytes of activations per token, layer and unit of width in 16 bits (arXiv 2205.05198, eq. 1)."""
LOGIT_CHUNK = 512
"""Tokens whose logits exist at one time."""


def rollout_memory(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """Per GPU of a worker, or of all workers on CPUs; and what all keep in host memory."""
    on_gpu = config.rollout.num_gpus_per_worker > 0
    where = "rollout, per GPU" if on_gpu else "rollout workers (host)"
    share = 1 / config.rollout.tensor_parallel if on_gpu else config.rollout.num_workers
    width = BYTES[config.policy.dtype]
    per_token = policy.kv_bytes_per_token(dtype=config.policy.dtype)
    cache = config.rollout.kv_cache_gib * 2**30
    contexts = int(cache // (per_token * config.rollout.max_context))
    return (
        _memory(
            where,
            "weights",
            policy.params * width * share,
            f"{policy.params:,} parameters x {width} B x {share:g}",
            policy.source,
        ),
        _memory(
            where,
            "KV cache",
            cache * share,
            f"rollout.kv_cache_gib x {share:g}; {per_token:,} B per token = 2 x "
            f"{policy.num_layers} layers x {policy.num_kv_heads} heads x {policy.head_dim} x "
            f"{width}: room for {contexts} full contexts",
            "recipe",
        ),
        *_kept_by_workers(config, policy),
    )


def _kept_by_workers(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """In host memory, beside what the engine samples from: the weights that the next delta, or the
    adapters, are added to."""
    where, count = "rollout workers (host)", config.rollout.num_workers
    kept = []
    if config.learner.broadcast != "dense" or config.rollout.tensor_parallel > 1:
        sent = _sent_bytes(config, policy)
        formula = f"{sent:,} B x {count} workers, kept to add to"
        kept.append(_memory(where, "last broadcast", count * sent, formula, policy.source))
    if config.learner.lora_rank is not None:
        width = BYTES[config.policy.dtype]
        formula = f"{policy.params:,} x {width} B x {count} workers, for the adapters"
        value = count * policy.params * width
        kept.append(_memory(where, "first weights", value, formula, policy.source))
    return tuple(kept)


def _sent_bytes(config: Config, policy: PolicySize) -> int:
    """Of a whole update: all weights, or all factors of the adapters."""
    if config.learner.lora_rank is None:
        return policy.params * BYTES[config.policy.dtype]
    return policy.trained_params(config.learner) * BYTES["float32"]


def learner_memory(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """Weights, gradients and optimizer in host memory; activations where the compute is."""
    learner = config.learner
    trained = policy.trained_params(learner)
    width = BYTES[learner.dtype]
    where = "learner (host)"
    source = f"{policy.source}; ZeRO's partitions"
    count, each = _every_learner(config)
    sent = _sent_bytes(config, policy)
    masters = 0 if learner.own_masters else trained
    # Of a float32 weight the copy of its master is enough; adapters are in no weight.
    are_masters = learner.dtype == "float32" and learner.lora_rank is None
    copied = policy.params - (trained if are_masters else 0)
    # ZeRO-3 adds them up in one buffer in host memory, and steps on another.
    sums = 2 if learner.device == "cuda" and learner.zero_stage == 3 else 1
    state = (
        ("weights", count * policy.params * width, f"{policy.params:,} x {width} B{each}"),
        ("master weights", masters * 4, f"{masters:,} trained x 4 B besides the weights"),
        ("gradients", count * trained * 4 * sums, f"{trained:,} trained x {4 * sums} B{each}"),
        ("optimizer", trained * 8, f"{trained:,} trained x 2 x 4 B (Adam)"),
        (
            "checkpoint",
            copied * width + trained * 12,
            f"a copy while it is written: {copied:,} x {width} B + {trained:,} x 12 B",
        ),
        ("last broadcast", sent, f"kept to compare with: {sent:,} B"),
    )
    return (
        *(_memory(where, what, value, formula, source) for what, value, formula in state),
        *_reference(config, policy),
        *_activations(config, policy),
    )


def _every_learner(config: Config) -> tuple[int, str]:
    """How often the host holds what each learner has, and how a formula says so."""
    count = config.learner.num_learners
    return count, f" x {count} learners" if count > 1 else ""


def _reference(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """The frozen copy that the KL is taken to: whole, where the compute is."""
    learner = config.learner
    if not learner.kl_coef:
        return ()
    width = BYTES[learner.dtype]
    on_cpu = learner.device == "cpu"
    count, each = _every_learner(config) if on_cpu else (1, "")
    return (
        _memory(
            "learner (host)" if on_cpu else "learner, its GPU",
            "reference",
            count * policy.params * width,
            f"{policy.params:,} x {width} B{each}, because learner.kl_coef is {learner.kl_coef:g}",
            policy.source,
        ),
    )


def _activations(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """Of the largest pack, where the compute is, and what a GPU holds besides."""
    learner = config.learner
    width = BYTES[learner.dtype]
    tokens = max(learner.micro_batch_tokens, config.rollout.max_context)
    hidden, layers = policy.hidden_size, policy.num_layers
    one_layer = tokens * hidden * ACTIVATION_BYTES * width / 2
    logits = 2 * LOGIT_CHUNK * policy.vocab_size * 4
    if learner.checkpoints_gradients:
        value = tokens * hidden * layers * width + one_layer + logits
        formula = (
            f"{tokens:,} tokens x {hidden} x {width} B x {layers} layers kept, one layer "
            f"recomputed ({17 * width} B)"
        )
    else:
        value = layers * one_layer + logits
        formula = f"{tokens:,} tokens x {layers} layers x {hidden} x {17 * width} B"
    formula += f" + logits 2 x {LOGIT_CHUNK} x {policy.vocab_size:,} x 4 B"
    on_cpu = learner.device == "cpu"
    count, each = _every_learner(config) if on_cpu else (1, "")
    activations = _memory(
        "learner (host)" if on_cpu else "learner, its GPU",
        "activations",
        count * value,
        f"({formula}){each}" if each else formula,
        "arXiv 2205.05198, eq. 1; attention scores are not stored",
    )
    if on_cpu:
        return (activations,)
    held = (activations, *_head_gradient(config, policy), _weights_on_gpu(config, policy))
    return (*held, *_whole_on_gpu(config, policy, besides=sum(figure.value for figure in held)))


def _head_gradient(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """The largest of all, while a backward pass makes it. Adapters leave the head alone."""
    if config.learner.lora_rank is not None:
        return ()
    width = BYTES[config.learner.dtype]
    formula = (
        f"{policy.vocab_size:,} x {policy.hidden_size} x (4 B added up + 4 x {width} B: "
        "of a chunk, in all, of the embedding, and DeepSpeed's copy)"
    )
    value = policy.vocab_size * policy.hidden_size * (4 + 4 * width)
    source = "learners/head.py; within a tenth of what an H200 took"
    return (_memory("learner, its GPU", "gradient of the head", value, formula, source),)


def _weights_on_gpu(config: Config, policy: PolicySize) -> Figure:
    """ZeRO-3 alone keeps the weights in host memory; the other stages hold them, and the sums of
    their gradients (of ZeRO-2 in float32) until the step, on the GPU."""
    width, where = BYTES[config.learner.dtype], "learner, its GPU"
    if config.learner.zero_stage == 3:
        value = 2 * policy.text_params / policy.num_layers * width
        formula = f"2 of {policy.num_layers} layers at a time, {width} B a parameter"
        source = f"{policy.source}; prefetch of one layer assumed"
        return _memory(where, "streamed weights", value, formula, source)
    trained = policy.trained_params(config.learner)
    is_first = config.learner.zero_stage == 1 or config.learner.num_learners > 1
    sums = width if is_first else BYTES["float32"]
    value = policy.params * width + trained * sums
    formula = (
        f"{policy.params:,} x {width} B + {trained:,} trained x {sums} B; zero_stage 3 streams them"
    )
    return _memory(where, "weights and gradients", value, formula, f"{policy.source}; ZeRO")


def _whole_on_gpu(config: Config, policy: PolicySize, *, besides: float) -> Iterator[Figure]:
    """DeepSpeed's ZeRO-3 takes a model from the GPU, and lays it there again to be read whole. In
    these moments there are no activations: only what is more than they and the streamed layers."""
    width, where = BYTES[config.learner.dtype], "learner, its GPU"
    more = policy.params * width - besides
    if config.learner.zero_stage == 3 and more > 0:
        formula = f"{policy.params:,} x {width} B at the start and when published, less the above"
        yield _memory(where, "whole weights", more, formula, f"{policy.source}; ZeRO")


def render_memory(config: Config, model: ImageModelSize | None) -> tuple[Figure, ...]:
    """Per GPU of a replica, or of all replicas on CPUs; nothing for a provider's model."""
    if model is None:
        return ()
    on_gpu = config.render.num_gpus_per_replica > 0
    where = "render, per GPU" if on_gpu else "render replicas (host)"
    share = 1 if on_gpu else config.render.max_replicas
    width = BYTES[config.render.dtype]
    formula = f"{model.params:,} parameters x {width} B x {share}"
    return (_memory(where, "weights", model.params * width * share, formula, model.source),)


def served_memory(config: Config) -> tuple[Figure, ...]:
    """Per GPU of a replica, or of all replicas on CPUs, of every model that the run serves itself.
    The weights of one whose size is not known are left out."""
    return tuple(
        figure for role, model in served_models(config).items() for figure in _served(role, model)
    )


def _served(role: str, model: ServedConfig) -> Iterator[Figure]:
    on_gpu = model.num_gpus_per_replica > 0
    where = f"{role}, per GPU" if on_gpu else f"{role} (host)"
    share = 1 / model.num_devices if on_gpu else model.max_replicas
    width = BYTES[model.dtype]
    if (params := served_params(model.path)) is not None:
        formula = f"{params:,} parameters x {width} B x {share:g}"
        yield _memory(where, "weights", params * width * share, formula, model.path)
    cache, formula = model.kv_cache_gib * 2**30 * share, f"kv_cache_gib x {share:g}"
    yield _memory(where, "KV cache", cache, formula, "recipe")


def host_memory(config: Config, policy: PolicySize) -> tuple[Figure, ...]:
    """What the processes themselves take, and the weights on their way."""
    others = 4 + (0 if is_api(config.render) else config.render.max_replicas)
    payload = _sent_bytes(config, policy)
    store = max(2.0 * payload, config.cluster.object_store_gib * 2**30)
    vllm, other = rates.VLLM_PROCESS_BYTES, rates.OTHER_PROCESS_BYTES
    served = sum(model.max_replicas for model in served_models(config).values())
    engines = config.rollout.num_workers + served
    return (
        _memory(
            "object store (host)",
            "weights, images",
            store,
            f"larger of cluster.object_store_gib and two versions of {payload / 1e9:.2g} GB",
            "recipe",
        ),
        _memory(
            "processes (host)",
            "vLLM",
            engines * vllm.value,
            f"{engines} x {vllm.value / 1e9:g} GB",
            vllm.source,
        ),
        _memory(
            "processes (host)",
            "all others",
            others * other.value,
            f"{others} x {other.value / 1e9:g} GB",
            other.source,
        ),
    )


def _memory(where: str, what: str, value: float, formula: str, source: str) -> Figure:
    return Figure(where=where, what=what, value=value, unit="bytes", formula=formula, source=source)
