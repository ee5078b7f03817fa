"""A miniature of the policy recipe: its data to the token, its losses within a tolerance."""

import hashlib
import json
import random

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from cluster.nano.attention import use_fast_attention
from cluster.nano.documents import echo, encode, gallery, look, recall
from cluster.nano.model import build_model, collate, image_arguments, rope_positions
from cluster.nano.policy import (
    STAGES,
    Progress,
    batch_loss,
    build_policy,
    documents_of,
    learning_rate_at,
    micro_batches,
    scaled,
    stage_of,
)
from cluster.nano.tokenizer import (
    JSON_PIECES,
    SPECIAL,
    SYSTEM_PROMPT,
    TAGS,
    build_processor,
    build_tokenizer,
)
from core.errors import ConfigError
from envs.nano.flags import draw, random_flag
from envs.nano.names import names

SCALE = 0.004
LOSSES = (6.9273, 6.8788, 6.776, 6.658, 6.6443)
"""Of the steps of that build, seed 0."""
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_tokens_of_the_protocol(tokenizer) -> None:
    for text in (*SPECIAL, *TAGS, *JSON_PIECES, "IMG_001"):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text
    special = {t.content: t.special for t in tokenizer.added_tokens_decoder.values()}
    assert all(special[token] for token in SPECIAL)
    assert not any(special[token] for token in TAGS)
    assert len(tokenizer) < 1100


def test_names_and_years_are_short_and_any_text_survives(tokenizer) -> None:
    for name in (*names("train")[:200], *names("heldout")[:200]):
        assert len(tokenizer.encode(f" {name}", add_special_tokens=False)) == 2
    assert len(tokenizer.encode(" 47", add_special_tokens=False)) == 1
    for text in (SYSTEM_PROMPT, "h\u00e9llo \n\n w\u00f6rld", '{"a": ["b"]}', "Torvi  flag"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_pixels_and_positions_are_the_processors_and_the_models(tokenizer) -> None:
    rng = random.Random(0)
    flags = [random_flag(rng) for _ in range(3)]
    processor = build_processor(tokenizer)
    pictures = [Image.fromarray(draw(flag)) for flag in flags]
    seen = processor.image_processor(images=pictures, return_tensors="pt")
    ours = image_arguments(flags)
    assert torch.equal(seen["pixel_values"], ours["pixel_values"])
    assert torch.equal(seen["image_grid_thw"], ours["image_grid_thw"])

    model = build_model(tokenizer, seed=0)
    document = encode(tokenizer, *gallery(rng, 1.0))
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    token_ids = torch.tensor([document.token_ids])
    positions, _ = model.model.get_rope_index(
        token_ids,
        mm_token_type_ids=(token_ids == image_id).int(),
        image_grid_thw=image_arguments(document.flags)["image_grid_thw"],
        attention_mask=torch.ones_like(token_ids),
    )
    ours = rope_positions(document.token_ids, image_id=image_id)
    assert torch.equal(positions[:, 0], torch.from_numpy(ours))


def test_fast_attention_gives_the_stock_loss(tokenizer) -> None:
    model = build_model(tokenizer, seed=0)
    rng = random.Random(1)
    documents = [encode(tokenizer, *make(rng, 0.5)) for make in (echo, recall, look, gallery)]
    (batch,) = micro_batches(documents, tokenizer)
    with torch.no_grad():
        stock = batch_loss(model, batch)
        use_fast_attention(model)
        fast = batch_loss(model, batch)
    assert fast.item() == pytest.approx(stock.item(), rel=1e-3)


def test_digest_of_the_documents(tokenizer) -> None:
    digest = hashlib.sha256()
    for number, stage in enumerate(STAGES):
        for document in documents_of(stage, seed=0, step=number, done=0.5, tokenizer=tokenizer):
            digest.update(json.dumps([document.token_ids, document.weights]).encode())
            digest.update(repr(document.flags).encode())
    assert digest.hexdigest() == "e7e896e54ea346561dc0e87b547af20f8f7e071447f3bd3b7a6444ce9d9b0924"


def test_no_document_holds_a_held_out_name(tokenizer) -> None:
    held_out = set(names("heldout"))
    for number, stage in enumerate(STAGES):
        for document in documents_of(stage, seed=1, step=number, done=1.0, tokenizer=tokenizer):
            text = tokenizer.decode(document.token_ids)
            assert not held_out & set("".join(c if c.isalpha() else " " for c in text).split())


def test_micro_batches_keep_every_token(tokenizer) -> None:
    documents = documents_of(STAGES[1], seed=0, step=0, done=0.0, tokenizer=tokenizer)
    batches = list(micro_batches(documents, tokenizer))
    total = sum(sum(document.weights) for document in documents)
    assert sum(batch.weights.sum().item() for batch in batches) == pytest.approx(total)
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    whole = collate(documents, pad_id=tokenizer.pad_token_id, image_id=image_id)
    assert sum(batch.token_ids.numel() for batch in batches) < whole.token_ids.numel()


def test_stages_and_learning_rates() -> None:
    stages = scaled(STAGES, 0.5)
    assert stage_of(stages, stages[0].steps) == (stages[1], 0)
    with pytest.raises(ValueError, match="beyond the last stage"):
        stage_of(stages, sum(stage.steps for stage in stages))
    stage = stages[1]
    assert learning_rate_at(stage, 0, step=9) == pytest.approx(stage.learning_rate / 2)
    last = learning_rate_at(stage, stage.steps, step=999)
    assert last == pytest.approx(stage.final_learning_rate)


class Stopped(Exception):
    """Raised by the test in the middle of a build."""


def test_miniature_build_is_reproducible_and_resumes(tmp_path) -> None:
    losses: list[float] = []
    folder = tmp_path / "policy"

    def stop_after_three(progress: Progress) -> None:
        losses.append(progress.loss)
        if len(losses) == 3:
            raise Stopped

    def build(scale: float) -> None:
        build_policy(folder, scale=scale, progress=stop_after_three, checkpoint_every=2)

    with pytest.raises(Stopped):
        build(SCALE)
    with pytest.raises(ConfigError, match=f"scale {SCALE}"):
        build(1.0)
    build(SCALE)
    assert losses[3] == pytest.approx(losses[2], rel=1e-3)
    assert losses[:2] + losses[3:] == pytest.approx(LOSSES, rel=TOLERANCE)

    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(folder).tokenizer.get_vocab()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 2**20
    assert not folder.with_name("policy.building").exists()
