import pytest

from core.sections.learner import LearnerConfig
from learners.engine import cosine_lr, deepspeed_config, warmup_lr, zero_stage


def test_a_cpu_learner_offloads_nothing() -> None:
    config = deepspeed_config(LearnerConfig(device="cpu"))
    assert config["zero_optimization"].keys() == {"stage", "overlap_comm", "reduce_bucket_size"}
    assert config["bf16"] == {"enabled": False}
    assert config["managed_gradient_accumulation"] is False


def test_only_float32_weights_of_a_cpu_learner_are_their_own_masters() -> None:
    assert zero_stage(LearnerConfig()) == 0
    assert zero_stage(LearnerConfig(dtype="bfloat16")) == 2
    assert zero_stage(LearnerConfig(device="cuda")) == 1
    assert zero_stage(LearnerConfig(zero_stage=3)) == 3


def test_gradients_are_clipped_by_deepspeed_or_by_us_but_not_by_both() -> None:
    own = deepspeed_config(LearnerConfig(max_grad_norm=0.5))
    zero = deepspeed_config(LearnerConfig(max_grad_norm=0.5, zero_stage=1))
    assert (own["gradient_clipping"], zero["gradient_clipping"]) == (0.0, 0.5)


def test_a_gpu_learner_keeps_its_optimizer_in_host_memory() -> None:
    config = deepspeed_config(LearnerConfig(device="cuda", dtype="bfloat16", zero_stage=2))
    zero = config["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert "offload_param" not in zero
    assert config["bf16"] == {"enabled": True}


def test_stage_3_keeps_the_parameters_there_too() -> None:
    config = deepspeed_config(LearnerConfig(device="cuda", dtype="bfloat16", zero_stage=3))
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"


def test_warm_up_is_linear_and_then_constant() -> None:
    rates = [warmup_lr(step, base=1.0, warmup_steps=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_lr(0, base=1.0, warmup_steps=0) == 1.0


def test_the_cosine_ends_at_zero() -> None:
    rates = [cosine_lr(step, base=2.0, warmup_steps=2, total_steps=6) for step in range(7)]
    # half a cosine over steps 2..6: cos(0), cos(pi/4), cos(pi/2), cos(3pi/4), cos(pi)
    expected = [1.0, 2.0, 2.0, 1.7071068, 1.0, 0.2928932, 0.0]
    assert rates == pytest.approx(expected)
