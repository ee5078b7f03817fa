"""The policy as the learner holds it: load a Qwen3-VL folder, score sampled tokens, save it.

In: a Hugging Face folder or hub id. Out: `PolicyModel`, whose forward gives the log-probs of a
micro-batch's sampled tokens, and a folder that transformers and vLLM load. Fails with ConfigError
when the folder holds no Qwen3-VL model, or when there is no GPU for a learner that needs one.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from core.config import Config
from core.errors import ConfigError
from learners.attention import PACKED
from learners.batch import MicroBatch
from learners.flat import DTYPES
from learners.head import token_scores
from learners.lora import merged

ATTENTION = {"text_config": PACKED, "vision_config": "sdpa"}
"""The vision tower takes image by image as it is."""

_FACTOR = ".default.weight"
"""Ends the names that peft gives to factors."""

_MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
"""Written with the weights; every other small file belongs to tokenizer and processor."""
_SIDE_SUFFIXES = (".json", ".txt", ".jinja")


class PolicyModel(torch.nn.Module):
    """A Qwen3-VL whose forward pass ends at the sampled tokens."""

    def __init__(self, lm: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies [N], at the sampling temperature, banned ids left out."""
        output = self.lm.model(
            input_ids=batch.input_ids,
            position_ids=self._position_ids(batch),
            mm_encoder_outputs=self._image_features(batch),
            segments=batch.segments,
            use_cache=False,
        )
        scores = token_scores(
            output.last_hidden_state[0, batch.predicting],
            self.lm.lm_head.weight,
            batch.targets,
            temperature=batch.temperature,
            banned_ids=batch.banned_ids,
        )
        return scores.logprobs + self._unseen(batch), scores.entropy

    def _unseen(self, batch: MicroBatch) -> torch.Tensor | float:
        """0, whose gradient is 0 for a trained vision tower that no image of the batch goes
        through. In a pass that gives a parameter no gradient DeepSpeed's ZeRO may take the one of
        the last step: with stage 3, and with the optimizer in host memory."""
        tower = self.lm.model.visual
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())
        if not trained or batch.pixel_values is not None:
            return 0.0
        config, device = tower.config, batch.input_ids.device
        side = config.spatial_merge_size
        patch = config.in_channels * config.temporal_patch_size * config.patch_size**2
        features = self.lm.model.get_image_features(
            torch.zeros(side**2, patch, device=device),
            torch.tensor([[1, side, side]], device=device),
            return_dict=True,
        )
        layers = [features.pooler_output, *features.deepstack_features]
        return 0.0 * torch.cat([image for layer in layers for image in layer]).float().sum()

    def _image_features(self, batch: MicroBatch) -> dict[str, Any]:
        """Of each different image once, then given to every place where it stands: in the input
        and, as deepstack features, in the first layers."""
        if batch.pixel_values is None:
            return {}
        features = self.lm.model.get_image_features(
            batch.pixel_values, batch.image_grid_thw, return_dict=True
        )
        shown = batch.shown.tolist()
        features.pooler_output = [features.pooler_output[n] for n in shown]
        features.deepstack_features = [
            [layer[n] for n in shown] for layer in features.deepstack_features
        ]
        return {"image": features}

    def _position_ids(self, batch: MicroBatch) -> torch.Tensor:
        """[4, 1, T]: text, time, height, width; each sequence starts again at 0."""
        different = batch.image_grid_thw
        grids = None if different is None else different[batch.shown]
        columns, first = [], 0
        for segment in batch.segments:
            ids = segment.take(batch.input_ids, 1)
            after = first + segment.num_images
            rope, _ = self.lm.model.get_rope_index(
                ids,
                mm_token_type_ids=segment.take(batch.is_image, 1),
                image_grid_thw=None if grids is None else grids[first:after],
            )
            text = torch.arange(ids.shape[1], device=ids.device).view(1, 1, -1)
            columns.append(torch.cat([text, rope])[:, :, segment.prefix_length :])
            first = after
        return torch.cat(columns, dim=2)


def load_policy(config: Config) -> PolicyModel:
    """The policy of a recipe in training mode, in the learner's dtype."""
    path, settings = config.policy.path, config.learner
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "learner.device is 'cuda', but torch finds no GPU; set learner.device=cpu, or run "
            "where one is, with requirements/gpu.txt installed"
        )
    if settings.dtype == "float32":
        # A GPU's convolutions, of which the tower's patches are one, keep 10 bits by default.
        torch.backends.cudnn.allow_tf32 = False
    disable_progress_bar()
    try:
        lm = Qwen3VLForConditionalGeneration.from_pretrained(
            path, dtype=DTYPES[settings.dtype], attn_implementation=ATTENTION
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy.path {path!r} holds no Qwen3-VL model; give a folder or a hub id ({error})"
        ) from error
    lm.train()
    if settings.freeze_vision:
        lm.model.visual.requires_grad_(False)
    if settings.lora_rank is not None:
        _add_adapters(lm, config)
    if settings.checkpoints_gradients:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    return PolicyModel(lm)


def load_reference(config: Config) -> PolicyModel:
    """The same weights, frozen, on the learner's device."""
    plain = config.model_copy(
        update={"learner": config.learner.model_copy(update={"lora_rank": None})}
    )
    reference = load_policy(plain)
    reference.requires_grad_(False).to(config.learner.device)
    return reference


def _add_adapters(lm: Qwen3VLForConditionalGeneration, config: Config) -> None:
    """Nothing but these is trained. They add nothing yet: B is zero."""
    settings = config.learner
    assert settings.lora_rank is not None
    layers = lm.model.language_model.named_modules()
    known = {name.split(".")[-1] for name, one in layers if isinstance(one, torch.nn.Linear)}
    if unknown := sorted(set(settings.lora_targets) - known):
        raise ConfigError(
            f"learner.lora_targets names {', '.join(unknown)}, which {config.policy.path} has not; "
            f"it has {', '.join(sorted(known))}"
        )
    lm.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        inject_adapter_in_model(
            LoraConfig(
                r=settings.lora_rank,
                lora_alpha=settings.lora_alpha,
                target_modules=rf".*language_model.*\.({'|'.join(settings.lora_targets)})",
            ),
            lm,
        )


def adapters(lm: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The factors under the names of learners/lora.py; empty without LoRA."""
    return {
        name.removesuffix(_FACTOR): tensor
        for name, tensor in lm.state_dict().items()
        if name.endswith(_FACTOR)
    }


def plain_weights(lm: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """A state dict as if there were no adapters: what they add is in the weights."""
    state = lm.state_dict()
    base = {n.replace(".base_layer", ""): t for n, t in state.items() if not n.endswith(_FACTOR)}
    scales = [m.scaling["default"] for m in lm.modules() if isinstance(m, LoraLayer)]
    return dict(merged(base, adapters(lm), scale=scales[0])) if scales else base


def host_copy(
    tensors: Mapping[str, torch.Tensor], *, masters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Copies that training does not touch; tensors that share memory (a tied head) still do.

    A weight whose master, by "master/lm.<name>", has its dtype is that master: a copy is there.
    """
    copies: dict[int, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in copies:
            continue
        master = masters.get(f"master/lm.{name}")
        same = master is not None and master.dtype == tensor.dtype
        copies[tensor.data_ptr()] = master if same else tensor.detach().to("cpu", copy=True)
    return {name: copies[tensor.data_ptr()] for name, tensor in tensors.items()}


def save_policy(
    lm: Qwen3VLForConditionalGeneration,
    folder: Path,
    *,
    base_path: str,
    weights: Mapping[str, torch.Tensor],
) -> None:
    """These weights and the config of `lm`, and the tokenizer and processor files of `base_path` as
    they are."""
    lm.save_pretrained(folder, state_dict=weights)
    base = Path(cached_file(base_path, "config.json")).parent
    for file in sorted(base.iterdir()):
        if file.suffix in _SIDE_SUFFIXES and file.name not in _MODEL_FILES:
            shutil.copyfile(file, folder / file.name)


def load_weights(
    lm: Qwen3VLForConditionalGeneration, folder: Path, masters: Mapping[str, torch.Tensor]
) -> None:
    """Copy a saved policy's weights into `lm`, in place: an engine already holds its tensors.

    Of a policy with adapters these alone, out of the `masters` of its checkpoint: the folder has
    them added to the weights.
    """
    if factors := adapters(lm):
        for name, tensor in factors.items():
            tensor.copy_(masters[f"master/lm.{name}{_FACTOR}"])
        return
    saved = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=lm.dtype)
    with torch.no_grad():
        lm.load_state_dict(saved.state_dict())
