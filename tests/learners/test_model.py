"""A packed forward pass against plain transformers, one sequence at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

import learners.head
from core.config import build_config
from core.errors import ConfigError
from core.records import RolloutId, TrainingSample
from envs.chat import IMAGE, ChatFormat
from learners.batch import build_micro_batch
from learners.model import load_policy
from learners.packing import plan_packs
from tests.builders import make_rollout_id, make_sample, make_sampling, png_bytes
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.tiny_model import build_tiny_policy

PROMPT = 12
"""Tokens of a first prompt."""
STORE = MemoryImageStore()
SHAPES = [  # ordinal, then text tokens (int) and images (side, name) in turn; text was sampled
    (0, [5, "32a", 9]),
    (0, [17, "64a", 3, "32a", 40]),
    (1, [90]),
    (1, [4, "32b", "32b", 11, "64a", 6, "32a", 8]),
    (2, [30]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatFormat:
    return ChatFormat.load(folder)


@pytest.fixture(scope="module")
def samples(chat: ChatFormat) -> list[TrainingSample]:
    generator = torch.Generator().manual_seed(0)
    made = []
    pictures: dict[str, bytes] = {}
    for index, (ordinal, pieces) in enumerate(SHAPES):
        # A first prompt that the members of a group share, then turns of their own.
        ids = [40 + ordinal] * PROMPT
        mask, images = [0] * PROMPT, []
        for piece in pieces:
            if isinstance(piece, int):
                ids += torch.randint(10, 200, (piece,), generator=generator).tolist()
                mask += [1] * piece
                continue
            color = tuple(torch.randint(0, 256, (3,), generator=generator).tolist())
            side = int(piece[:2])
            data = pictures.setdefault(piece, png_bytes(color, size=(side, side)))
            seen = chat.see(STORE.put(data), data)
            images.append(seen)
            pads = chat.expand(chat.encode_trusted(IMAGE), [seen])
            ids += pads
            mask += [0] * len(pads)
        made.append(
            make_sample(
                rollout_id=make_rollout_id(ordinal, index),
                token_ids=tuple(ids),
                loss_mask=tuple(mask),
                logprobs=(0.0,) * len(ids),
                advantages=tuple((1.0 - index) * bit for bit in mask),
                policy_versions=tuple(bit - 1 for bit in mask),
                images=tuple(images),
                sampling=make_sampling(banned_ids=chat.banned_ids),
            )
        )
    return made


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one forward and backward pass over all samples gave."""

    logprobs: list[torch.Tensor]
    """Of each sample's sampled tokens, in the order of `samples`."""
    gradients: dict[str, torch.Tensor]

    def assert_close(self, other: "Pass") -> None:
        for one, two in zip(self.logprobs, other.logprobs, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
        assert self.gradients.keys() == other.gradients.keys()
        for name, gradient in self.gradients.items():
            torch.testing.assert_close(
                other.gradients[name], gradient, rtol=1e-5, atol=1e-5, msg=name
            )


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def plain(folder: Path, samples: list[TrainingSample], chat: ChatFormat) -> Pass:
    """Plain transformers, one sequence at a time."""
    model = HfPolicy(folder).model
    found = []
    for sample in samples:
        ids = torch.tensor([sample.token_ids])
        inputs = {"mm_token_type_ids": (ids == chat.image_id).int()}
        if sample.images:
            vision = chat.vision_inputs(sample.images, STORE)
            inputs["pixel_values"] = torch.from_numpy(vision.pixel_values)
            inputs["image_grid_thw"] = torch.from_numpy(vision.grid_thw)
        logits = model(input_ids=ids, use_cache=False, **inputs).logits[0]
        logits = logits.index_fill(1, torch.tensor(sample.sampling.banned_ids), float("-inf"))
        logprobs = (logits / sample.sampling.temperature).log_softmax(-1)[:-1]
        chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        chosen = chosen[torch.tensor(sample.loss_mask[1:], dtype=torch.bool)]
        (chosen.mean() * weight_of(sample)).backward()
        found.append(chosen.detach())
    return Pass(logprobs=found, gradients=gradients_of(model))


def packed(
    folder: Path,
    samples: list[TrainingSample],
    chat: ChatFormat,
    *,
    max_tokens: int = 400,
    share: bool = False,
    **learner: object,
) -> Pass:
    tree = {"policy": {"path": str(folder)}, "learner": {"freeze_vision": False, **learner}}
    model = load_policy(build_config(tree))
    packs = plan_packs(samples, max_tokens=max_tokens, share_prefix=share)
    assert max_tokens < 100 or len(packs) < len(samples)
    found: dict[RolloutId, torch.Tensor] = {}
    for pack in packs:
        batch = build_micro_batch(pack, chat=chat, images=STORE, share_prefix=share)
        logprobs, _ = model(batch)
        means = [logprobs[batch.sequences == n].mean() for n in range(len(pack))]
        weights = [weight_of(sample) for sample in pack]
        sum(mean * weight for mean, weight in zip(means, weights, strict=True)).backward()
        for number, sample in enumerate(pack):
            found[sample.rollout_id] = logprobs[batch.sequences == number].detach()
    logprobs = [found[sample.rollout_id] for sample in samples]
    return Pass(logprobs=logprobs, gradients=gradients_of(model.lm))


def weight_of(sample: TrainingSample) -> float:
    """Each sample pulls in its own direction, so that a leak between two cannot cancel."""
    return (1.5 - sample.rollout_id.index) / 10


@pytest.fixture(scope="module")
def oracle(folder: Path, samples: list[TrainingSample], chat: ChatFormat) -> Pass:
    return plain(folder, samples, chat)


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = build_config({"policy": {"path": "nowhere"}, "learner": {"device": "cuda"}})
    with pytest.raises(ConfigError, match=r"no GPU; set learner.device=cpu"):
        load_policy(config)


@pytest.mark.parametrize("max_tokens", [16, 120, 1000])
def test_a_pack_is_its_sequences_one_by_one(
    folder: Path, samples: list[TrainingSample], chat: ChatFormat, oracle: Pass, max_tokens: int
) -> None:
    oracle.assert_close(packed(folder, samples, chat, max_tokens=max_tokens))


def test_a_shared_prompt_changes_no_number(
    folder: Path, samples: list[TrainingSample], chat: ChatFormat, oracle: Pass
) -> None:
    whole = build_micro_batch(samples, chat=chat, images=STORE)
    shared = build_micro_batch(samples, chat=chat, images=STORE, share_prefix=True)
    saved = whole.input_ids.shape[1] - shared.input_ids.shape[1]
    assert saved == 2 * PROMPT
    oracle.assert_close(packed(folder, samples, chat, max_tokens=1000, share=True))


def test_an_image_of_several_places_goes_through_the_vision_tower_once(
    folder: Path, samples: list[TrainingSample], chat: ChatFormat, oracle: Pass
) -> None:
    """Members share images, and one sequence has an image twice in a row."""
    batch = build_micro_batch(samples, chat=chat, images=STORE)
    assert (batch.num_images, batch.num_encoded) == (7, 3)
    patches: list[int] = []
    with watched_vision_tower(patches):
        oracle.assert_close(packed(folder, samples, chat, max_tokens=1000))
    assert batch.pixel_values is not None
    assert patches == [len(batch.pixel_values)]


@contextmanager
def watched_vision_tower(patches: list[int]) -> Iterator[None]:
    """Every call of one adds the number of its patches."""

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Qwen3VLVisionModel):
            patches.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


def test_recomputed_layers_and_a_fused_head_change_no_number(
    folder: Path,
    samples: list[TrainingSample],
    chat: ChatFormat,
    oracle: Pass,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learners.head, "PLAIN_LOGITS", 0)
    monkeypatch.setattr(learners.head, "CHUNK_ROWS", 16)
    oracle.assert_close(
        packed(folder, samples, chat, max_tokens=1000, share=True, gradient_checkpointing=True)
    )


def test_an_adapter_on_what_is_not_there_is_refused(folder: Path) -> None:
    learner = {"lora_rank": 4, "lora_targets": ["q_proj", "v_prj"]}
    config = build_config({"policy": {"path": str(folder)}, "learner": learner})
    with pytest.raises(ConfigError, match=r"lora_targets names v_prj, .* it has .*v_proj"):
        load_policy(config)
