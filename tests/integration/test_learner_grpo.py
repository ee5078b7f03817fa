"""The whole learner on DeepSpeed, held against plain transformers and plain torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.errors import FidelityError, LearnerError
from core.records import Group
from envs.chat import ChatFormat
from learners import engine, head
from learners.advantage import NoSignal, group_advantages
from learners.checkpoint import CheckpointWriter, TrainState, load_checkpoint, policy_folder
from learners.engine import TrainEngine
from learners.grpo_learner import GrpoLearner, select_samples
from learners.receive import WeightReceiver
from tests.fakes.images import MemoryImageStore
from tests.hf_policy import HfPolicy
from tests.learner_world import SCORES, World, sharding_everything, weights_of
from tests.oracle_groups import make_oracle_groups
from tests.tiny_model import build_tiny_policy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = build_tiny_policy(tmp_path_factory.mktemp("policy"))
    return World(folder=folder, chat=ChatFormat.load(folder), store=MemoryImageStore())


def test_an_on_policy_update_sees_the_rollouts_logprobs_behind_images_too(world: World) -> None:
    groups = world.groups()
    with world.learner() as learner:
        report = learner.update(groups)
    metrics = report.metrics
    assert report.version == 1
    assert report.num_samples == 5
    assert metrics["learner/logprob_diff/text_max"] < 1e-4
    assert metrics["learner/logprob_diff/after_image_max"] < 1e-4
    assert metrics["learner/clip_fraction"] == 0
    assert metrics["learner/ess"] == pytest.approx(1, abs=1e-4)
    assert metrics["learner/micro_batches"] > 1
    samples, _ = select_samples(groups, config=world.config())
    total = sum(sum(sample.advantages) for sample in samples)
    assert metrics["learner/loss"] == pytest.approx(-total / report.num_tokens, abs=1e-4)


def test_one_update_is_one_plain_adamw_step_on_unpadded_sequences(world: World) -> None:
    groups = world.groups()
    with world.learner(betas=(0.9, 0.99), weight_decay=0.01, max_grad_norm=0.5) as learner:
        report = learner.update(groups)
        trained = weights_of(learner)
    expected, gradients, norm = plain_step(world, groups)
    assert report.metrics["learner/grad_norm"] == pytest.approx(norm, rel=1e-4)
    # Adam's first step has the size of lr whatever the gradient's, so one that is all rounding
    # has no sign to agree on.
    certain = {name: gradient.abs() > 1e-6 for name, gradient in gradients.items()}
    assert sum(int(mask.sum()) for mask in certain.values()) > 100_000
    for name, tensor in expected.items():
        mask = certain.get(name, torch.ones_like(tensor, dtype=torch.bool))
        torch.testing.assert_close(trained[name][mask], tensor[mask], rtol=0, atol=2e-5, msg=name)


def plain_step(
    world: World, groups: list[Group]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], float]:
    """REINFORCE with the same advantages: on-policy, the clipped objective has its gradient."""
    model = HfPolicy(world.folder).model
    model.model.visual.requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    samples, _ = select_samples(groups, config=world.config())
    num_tokens = sum(sum(sample.loss_mask) for sample in samples)
    for sample in samples:
        ids = torch.tensor([sample.token_ids])
        vision = world.chat.vision_inputs(sample.images, world.store)
        logits = model(
            input_ids=ids,
            mm_token_type_ids=(ids == world.chat.image_id).int(),
            pixel_values=torch.from_numpy(vision.pixel_values),
            image_grid_thw=torch.from_numpy(vision.grid_thw),
            use_cache=False,
        ).logits[0]
        logits = logits.index_fill(1, torch.tensor(sample.sampling.banned_ids), float("-inf"))
        logprobs = (logits / sample.sampling.temperature).log_softmax(-1)[:-1]
        chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(sample.loss_mask[1:], dtype=torch.bool)
        weights = torch.tensor(sample.advantages[1:])
        (-(chosen * weights)[mask].sum() / num_tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(trainable, 0.5).item()
    optimizer.step()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    gradients["lm_head.weight"] = gradients["model.language_model.embed_tokens.weight"]
    return model.state_dict(), gradients, norm


def test_frozen_vision_stays_and_the_tied_head_travels(world: World) -> None:
    with world.learner() as learner:
        before = weights_of(learner)
        learner.update(world.groups())
        update, payload = learner.publish()
        after = dict(WeightReceiver().receive(update, payload))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert update.version == 1
    assert not [name for name in changed if ".visual." in name]
    assert "lm_head.weight" in changed
    assert torch.equal(after["lm_head.weight"], after["model.language_model.embed_tokens.weight"])


def test_vision_is_trained_when_it_is_not_frozen(world: World) -> None:
    with world.learner(freeze_vision=False) as learner:
        before = weights_of(learner)
        learner.update(world.groups())
        after = weights_of(learner)
    assert any(".visual." in n and not torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize(("dtype", "zero_stage"), [("float32", 1), ("float32", 3), ("bfloat16", 2)])
def test_resume_is_bit_exact(world: World, tmp_path: Path, dtype: str, zero_stage: int) -> None:
    steps = [world.groups(seed=seed) for seed in range(4)]
    settings = {"dtype": dtype, "zero_stage": zero_stage, "warmup_steps": 3, "lr": 1e-3}
    with world.learner(**settings) as learner:
        for groups in steps[:2]:
            learner.update(groups)
        learner.save(str(tmp_path / "half"))
        for groups in steps[2:]:
            learner.update(groups)
        expected = weights_of(learner)
    with world.learner(**settings) as learner:
        learner.load(str(tmp_path / "half"))
        assert learner.version == 2
        for groups in steps[2:]:
            report = learner.update(groups)
        resumed = weights_of(learner)
    assert report.version == 4
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_the_fused_head_learns_the_same_with_its_weight_sharded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 takes a parameter away between the module's forward and its backward pass."""
    groups = world.groups()
    with world.learner(zero_stage=1) as learner:
        expected = learner.update(groups)
    monkeypatch.setattr(head, "PLAIN_LOGITS", 0)
    monkeypatch.setattr(engine, "deepspeed_config", sharding_everything)
    with world.learner(zero_stage=3) as learner:
        report = learner.update(groups)
        assert learner._policy.lm.lm_head.weight.numel() == 0, "nothing was sharded"
    for name in ("loss", "grad_norm", "entropy"):
        wanted = expected.metrics[f"learner/{name}"]
        assert report.metrics[f"learner/{name}"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_a_saved_policy_is_a_folder_that_transformers_loads(world: World, tmp_path: Path) -> None:
    with world.learner() as learner:
        learner.update(world.groups())
        learner.save(str(tmp_path / "saved"))
        trained = weights_of(learner)
    loaded = HfPolicy(tmp_path / "saved" / "policy").model.state_dict()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)
    ChatFormat.load(tmp_path / "saved" / "policy")


def test_a_save_holds_the_moment_it_was_asked_for(world: World, tmp_path: Path) -> None:
    groups = world.groups()
    with world.learner() as learner:
        learner.update(groups)
        asked = {name: tensor.clone() for name, tensor in weights_of(learner).items()}
        assert learner.begin_save(str(tmp_path / "one")) == 1
        learner.update(groups)  # on the weights that are being written
        assert learner.begin_save(str(tmp_path / "two")) == 2
        learner.finish_save()
        learner.load(str(tmp_path / "one"))
        assert all(torch.equal(weights, asked[n]) for n, weights in weights_of(learner).items())
    saved, later = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert (saved.version, later.version) == (1, 2)
    head = "master/lm.model.language_model.embed_tokens.weight"
    assert not torch.equal(saved.tensors[head], later.tensors[head])
    weights = load_file(policy_folder(tmp_path / "one") / "model.safetensors")
    assert "lm_head.weight" not in weights, "the tied head is written once"


@pytest.mark.parametrize("zero_stage", [None, 1, 3])
def test_a_save_copies_a_float32_weight_once(
    world: World, tmp_path: Path, zero_stage: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: dict[str, Any] = {}

    def start(writer: Any, folder: Path, *, state: TrainState, write_policy: Any) -> None:
        saved.update(masters=state.tensors, weights=write_policy.keywords["weights"])

    monkeypatch.setattr(CheckpointWriter, "start", start)
    with world.learner(zero_stage=zero_stage) as learner:
        learner.update(world.groups())
        learner.begin_save(str(tmp_path / "one"))
        now = weights_of(learner)
    masters = {tensor.data_ptr() for tensor in saved["masters"].values()}
    copied = {n for n, weight in saved["weights"].items() if weight.data_ptr() not in masters}
    assert copied == {name for name in now if ".visual." in name}, "only what stands still"
    assert all(torch.equal(saved["weights"][name], weight) for name, weight in now.items())


def test_a_save_that_fails_is_told_when_it_is_waited_for(world: World, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with world.learner() as learner:
        learner.begin_save(str(tmp_path / "a file" / "checkpoint"))
        with pytest.raises(LearnerError, match="save: "):
            learner.finish_save()


def test_stale_tokens_are_weighted_and_later_steps_keep_their_anchor(world: World) -> None:
    settings = {"updates_per_step": 2, "warmup_steps": 8, "clip_low": 1e-4, "clip_high": 1e-4}
    with world.learner(**settings) as learner:
        first = learner.update(world.groups(seed=1)).metrics
        report = learner.update(world.groups(seed=2, version=0))
    assert report.metrics["learner/off_policy_fraction"] == 1
    assert first["learner/off_policy_fraction"] == 0
    assert report.metrics["learner/clip_fraction"] > 0, "the second step against the first"
    assert report.metrics["learner/lr"] == pytest.approx(4 / 8 * 1e-3), "of the fourth step"
    assert report.metrics["learner/optimizer_steps"] == 2
    assert report.metrics["learner/kl_rollout"] > 0
    assert report.version == 2


@pytest.mark.parametrize(
    ("aggregation", "divisors", "loss"),
    [
        # Advantages -0.4, 0.6, -0.2 of 33, 17, 24 tokens; the ratios are 1.
        # (0.4 * 33 + 0.2 * 24) / 57 = 18 / 57, then -0.6 * 17 / 17
        ("token_mean", [57, 17], (18 / 57 - 0.6) / 2),
        # (0.4 + 0.2) / 2 = 0.3, then -0.6 / 1
        ("sequence_mean", [2, 1], (0.3 - 0.6) / 2),
        # 18 / 2 = 9, then -0.6 * 17 / 1 = -10.2
        ("sequence_mean_token_sum", [2, 1], (9.0 - 10.2) / 2),
    ],
)
def test_each_of_two_updates_divides_by_what_its_own_share_holds(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    aggregation: str,
    divisors: list[float],
    loss: float,
) -> None:
    """Members 0 and 2 make the first update of the batch, member 1 the second."""
    groups = world.groups(scores=[[0.0, 1.0, 0.2]])
    step, divided_by = TrainEngine.step, []

    def noting(engine: TrainEngine, *, lr: float, divide_by: float) -> float:
        divided_by.append(divide_by)
        return step(engine, lr=lr, divide_by=divide_by)

    monkeypatch.setattr(TrainEngine, "step", noting)
    settings = {"aggregation": aggregation, "advantage_std": False, "updates_per_step": 2}
    with world.learner(**settings, lr=1e-9) as learner:
        report = learner.update(groups)
    samples, _ = select_samples(groups, config=world.config())
    assert [sum(sample.loss_mask) for sample in samples] == [33, 17, 24]
    assert divided_by == divisors
    assert report.metrics["learner/loss"] == pytest.approx(loss, abs=1e-4)


def test_the_kl_to_the_first_policy_is_metered_and_priced(world: World, tmp_path: Path) -> None:
    with world.learner(kl_coef=0.1) as learner:
        first = learner.update(world.groups())
        assert first.metrics["learner/kl_reference"] == pytest.approx(0.0, abs=1e-6)
        learner.save(str(tmp_path / "moved"))
        moved = HfPolicy(tmp_path / "moved" / "policy")
        groups = make_oracle_groups(moved, world.chat, world.store, scores=SCORES, version=1)
        second = learner.update(groups)
    kl = k3_to(HfPolicy(world.folder), world, groups)
    assert kl > 1e-3
    assert second.metrics["learner/kl_reference"] == pytest.approx(kl, rel=1e-3)
    # On-policy every ratio is 1, so that the rest of the loss is the mean advantage.
    samples, _ = select_samples(groups, config=world.config())
    mean = sum(sum(sample.advantages) for sample in samples) / second.num_tokens
    assert second.metrics["learner/loss"] == pytest.approx(0.1 * kl - mean, abs=1e-4)


def k3_to(reference: HfPolicy, world: World, groups: list[Group]) -> float:
    """Mean of r - 1 - log r over all sampled tokens, r = reference / policy."""
    log_ratios = []
    for turn in (t for g in groups for m in g.members for t in m.trajectory.turns):
        known = reference.logprobs(
            turn.prompt_ids,
            turn.completion.token_ids,
            pngs=[world.store.get(image.ref) for image in turn.images],
            temperature=turn.completion.sampling.temperature,
            banned_ids=turn.completion.sampling.banned_ids,
        )
        log_ratios.append(torch.from_numpy(known) - torch.tensor(turn.completion.logprobs))
    log_ratio = torch.cat(log_ratios).double()
    return (log_ratio.exp() - 1 - log_ratio).mean().item()


def test_groups_from_before_and_after_a_change_of_temperature_make_one_step(world: World) -> None:
    (before, _), (_, after) = world.groups(temperature=0.7), world.groups(temperature=1.0)
    with world.learner(micro_batch_tokens=1024) as learner:
        report = learner.update([before, after])
    assert report.metrics["learner/logprob_diff/text_max"] < 1e-4
    assert report.metrics["learner/logprob_diff/after_image_max"] < 1e-4
    assert report.metrics["learner/micro_batches"] == 2


def test_a_batch_without_signal_changes_nothing(world: World) -> None:
    groups = world.groups(scores=[[0.5, 0.5], [0.3]])
    assert group_advantages(groups[0], use_std=True) is NoSignal.NO_SPREAD
    with world.learner() as learner:
        before = weights_of(learner)
        report = learner.update(groups)
        assert (report.version, report.num_samples, report.num_tokens) == (0, 0, 0)
        assert report.metrics["learner/groups_no_spread"] == 1
        assert report.metrics["learner/groups_too_few"] == 1
        assert all(torch.equal(before[name], t) for name, t in weights_of(learner).items())


def test_a_policy_that_saw_other_pixels_is_refused(world: World) -> None:
    (group,) = world.groups(scores=[[0.0, 1.0]])
    member = group.members[0]
    assert member.trajectory is not None
    last = member.trajectory.turns[-1]
    images = tuple(replace(image, pixel_digest="0" * 64) for image in last.images)
    turns = (member.trajectory.turns[0], replace(last, images=images))
    forged = replace(member, trajectory=replace(member.trajectory, turns=turns))
    with world.learner() as learner, pytest.raises(FidelityError, match="other pixel values"):
        learner.update([replace(group, members=(forged, *group.members[1:]))])


def test_a_missing_image_is_the_learners_failure_and_names_it(world: World) -> None:
    groups = world.groups()
    learner = GrpoLearner(world.config(), chat=world.chat, images=EmptyStore())
    with pytest.raises(LearnerError, match="disk is gone"):
        learner.update(groups)
    learner.close()


class EmptyStore(MemoryImageStore):
    def get(self, ref: Any) -> bytes:
        raise OSError("disk is gone")
