import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.plan.memory import host_memory, learner_memory, rollout_memory, served_memory
from cluster.plan.model_sizes import (
    ImageModelSize,
    image_model_size,
    policy_size,
    size_of_policy_config,
)
from cluster.plan.plan import make_plan, placements
from cluster.plan.rates import Figure
from cluster.plan.seconds import stage_seconds
from core.config import Config, build_config, load_config
from tests.builders_cluster import write_safetensors

SMALL = {
    "text_config": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": 10,
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 4,
        "intermediate_size": 8,
        "in_channels": 3,
        "patch_size": 2,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 9,
        "deepstack_visual_indexes": [0],
        "out_hidden_size": 8,
    },
    "tie_word_embeddings": True,
}
"""Text: 80 embeddings + 2 layers x (2*64 + 2*32 + 8 + 384 + 16) + 8 = 1,288."""


def find(figures: tuple[Figure, ...], where: str, what: str = "") -> Figure:
    return next(f for f in figures if (f.where, f.what) == (where, what))


def small_policy() -> Any:
    return size_of_policy_config(SMALL, source="by hand")


def test_parameters_are_counted_as_by_hand() -> None:
    policy = small_policy()

    assert policy.text_params == 1_288
    # Patches 96+4+36; block 80 + 76 + 16; mergers 2 x (16*16+16 + 16*8+8) + 8 + 32.
    assert policy.vision_params == 136 + 172 + 2 * 408 + 8 + 32
    assert policy.kv_bytes_per_token(dtype="float32") == 2 * 2 * 1 * 4 * 4


def test_the_published_8b_model_has_its_published_size() -> None:
    policy = policy_size("Qwen/Qwen3-VL-8B-Instruct")

    assert policy.params == 8_767_123_696
    assert policy.kv_bytes_per_token(dtype="bfloat16") == 147_456


def test_a_local_folder_is_read_instead_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))

    assert policy_size(str(tmp_path)).text_params == 1_288


def test_learner_memory_is_eighteen_bytes_a_trained_parameter() -> None:
    config = config_of(learner={"dtype": "bfloat16", "freeze_vision": False})

    figures = learner_memory(config, small_policy())

    params = small_policy().params
    state = ("weights", "master weights", "gradients", "optimizer")
    assert sum(find(figures, "learner (host)", what).value for what in state) == 18 * params
    copies = ("checkpoint", "last broadcast")
    assert [find(figures, "learner (host)", what).value for what in copies] == [
        (2 + 4 + 8) * params,  # weights, master weights and moments
        4 * params,  # as the rollout workers have them
    ]


def test_frozen_vision_needs_neither_gradient_nor_optimizer() -> None:
    policy = small_policy()

    figures = learner_memory(config_of(learner={"freeze_vision": True}), policy)

    assert find(figures, "learner (host)", "weights").value == 4 * policy.params
    assert find(figures, "learner (host)", "optimizer").value == 8 * policy.text_params
    copied = 4 * (policy.params - policy.text_params) + 12 * policy.text_params
    assert find(figures, "learner (host)", "checkpoint").value == copied


def test_adapters_alone_are_trained_with_lora() -> None:
    """Rank 3, 2 layers; in + out: q 16, k 12, v 12, o 16, gate, up and down 24 each."""
    policy = small_policy()
    config = config_of(learner={"lora_rank": 3})

    figures = learner_memory(config, policy)

    trained = 3 * 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert find(figures, "learner (host)", "optimizer").value == 8 * trained
    assert find(figures, "learner (host)", "weights").value == 4 * policy.params
    only = config_of(learner={"lora_rank": 3, "lora_targets": ["q_proj"]})
    assert policy.trained_params(only.learner) == 3 * 2 * 16


@pytest.mark.parametrize(
    ("broadcast", "tensor_parallel", "kept"),
    [
        ("auto", 1, True),
        ("dense", 1, False),  # looked at where Ray's object store has it
        ("dense", 2, True),  # copied to where all processes of the engine see it
    ],
)
def test_workers_keep_in_host_memory_what_the_next_delta_is_added_to(
    broadcast: str, tensor_parallel: int, kept: bool
) -> None:
    policy = small_policy()
    rollout = {"num_workers": 3, "num_gpus_per_worker": 2, "tensor_parallel": tensor_parallel}

    config = config_of(learner={"broadcast": broadcast}, rollout=rollout)
    figures = rollout_memory(config, policy)

    on_host = {f.what: f.value for f in figures if f.where == "rollout workers (host)"}
    assert on_host == ({"last broadcast": 3 * 4 * policy.params} if kept else {})


def test_workers_keep_the_first_weights_for_adapters() -> None:
    policy = small_policy()
    rollout = {"num_workers": 3, "num_gpus_per_worker": 1}
    config = config_of(learner={"lora_rank": 3}, rollout=rollout)

    figures = rollout_memory(config, policy)

    where = "rollout workers (host)"
    assert find(figures, where, "first weights").value == 3 * 4 * policy.params
    trained = policy.trained_params(config.learner)
    assert find(figures, where, "last broadcast").value == 3 * 4 * trained


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_reference_of_a_kl_is_one_more_copy_where_the_compute_is(device: str) -> None:
    policy = small_policy()
    learner = {"device": device, "dtype": "bfloat16", "kl_coef": 0.01}
    where = {"cpu": "learner (host)", "cuda": "learner, its GPU"}[device]

    figures = learner_memory(config_of(learner=learner), policy)

    assert find(figures, where, "reference").value == 2 * policy.params
    without = learner_memory(config_of(learner=learner | {"kl_coef": 0}), policy)
    assert len(without) == len(figures) - 1


def test_zero_3_streams_the_weights_through_a_gpu() -> None:
    """Of two layers in bfloat16; the host has the gradients twice, as sums and to step on."""
    policy = small_policy()
    learner = {"device": "cuda", "dtype": "bfloat16", "zero_stage": 3}

    figures = learner_memory(config_of(learner=learner), policy)

    assert find(figures, "learner, its GPU", "streamed weights").value == 2 * policy.text_params
    assert find(figures, "learner (host)", "gradients").value == 2 * 4 * policy.text_params


@pytest.mark.parametrize(("max_context", "is_more"), [(64, True), (8192, False)])
def test_a_gpu_has_room_for_the_whole_weights_when_nothing_else_is_there(
    max_context: int, is_more: bool
) -> None:
    policy = replace(small_policy(), vision_params=1_000_000)
    learner = {"device": "cuda", "dtype": "bfloat16", "zero_stage": 3, "micro_batch_tokens": 64}
    config = config_of(learner=learner, rollout={"max_context": max_context})

    figures = [f for f in learner_memory(config, policy) if f.where == "learner, its GPU"]

    total = sum(figure.value for figure in figures)
    whole = 2 * policy.params
    assert total == whole if is_more else total > whole
    assert ("whole weights" in [figure.what for figure in figures]) == is_more


@pytest.mark.parametrize(
    ("settings", "sums"),
    [({}, 4), ({"zero_stage": 2}, 4), ({"zero_stage": 1}, 2), ({"num_learners": 2}, 2)],
)
def test_a_gpu_holds_the_sums_of_gradients_too(settings: dict[str, int], sums: int) -> None:
    """In float32, but for ZeRO-1, which adds up in bfloat16."""
    policy, learner = small_policy(), {"device": "cuda", "dtype": "bfloat16"}

    figures = learner_memory(config_of(learner=learner | settings), policy)

    held = 2 * policy.params + sums * policy.text_params
    assert find(figures, "learner, its GPU", "weights and gradients").value == held


QWEN3_VL_4B = {
    "text_config": {
        **{"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
        "vocab_size": 151_936,
    },
    "vision_config": {
        **{"hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "out_hidden_size": 2560},
        **{"patch_size": 16, "temporal_patch_size": 2, "in_channels": 3, "spatial_merge_size": 2},
        **{"num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]},
    },
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(("zero_stage", "gib", "seconds"), [(2, 33.7, 16.87), (3, 9.3, 23.74)])
def test_a_plan_says_what_an_h200_took(zero_stage: int, gib: float, seconds: float) -> None:
    """`python -m benchmarks.learner_gpu`, 133,120 tokens: docs/performance.md."""
    learner = {"device": "cuda", "dtype": "bfloat16", "zero_stage": zero_stage}
    config = config_of(
        learner=learner | {"micro_batch_tokens": 16_384},
        rollout={"max_context": 16_384},
        train={"groups_per_step": 1, "group_size": 7},
        policy={"system_prompt": "full"},
    )
    policy = size_of_policy_config(QWEN3_VL_4B, source="published")

    on_gpu = [f for f in learner_memory(config, policy) if f.where == "learner, its GPU"]
    learn = next(f for f in stage_seconds(config, policy, None) if f.where == "learn")

    assert sum(figure.value for figure in on_gpu) / 2**30 == pytest.approx(gib, rel=0.1)
    assert learn.value / (7 * 20_000) == pytest.approx(seconds / 133_120, rel=0.1)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_activations_are_those_of_the_largest_pack(checkpoints: bool) -> None:
    """Width 8, 2 layers, float32: 4 bytes a number kept, 68 of a whole layer; 10 words."""
    learner = {"micro_batch_tokens": 100, "gradient_checkpointing": checkpoints}
    config = config_of(learner=learner, rollout={"max_context": 200})

    figure = find(learner_memory(config, small_policy()), "learner (host)", "activations")

    layers = 2 * 4 + 68 if checkpoints else 2 * 68
    assert figure.value == 200 * 8 * layers + 2 * 512 * 10 * 4


def test_tensor_parallel_halves_what_one_gpu_holds() -> None:
    policy = small_policy()
    rollout = {"num_gpus_per_worker": 2, "tensor_parallel": 2, "kv_cache_gib": 3}

    figures = rollout_memory(config_of(rollout=rollout), policy)

    assert find(figures, "rollout, per GPU", "weights").value == policy.params * 4 / 2
    assert find(figures, "rollout, per GPU", "KV cache").value == 1.5 * 2**30


def test_render_seconds_follow_the_formula() -> None:
    model = ImageModelSize(
        transformer_params=1_000, other_params=0, pixels_per_token=16, source="by hand"
    )
    config = config_of(
        train={"groups_per_step": 2, "group_size": 3},
        render={
            **{"width": 32, "height": 64, "steps": 10, "true_cfg_scale": 4.0},
            **{"num_gpus_per_replica": 1, "max_replicas": 4, "seeds": [0, 1]},
        },
        policy={"system_prompt": "full"},
    )

    figure = find(stage_seconds(config, small_policy(), model), "render")

    # 12 images on 4 replicas: 3 waves of 8 tokens x (1 + 2 references) x 10 steps x 2 passes.
    assert math.isclose(figure.value, 3 * 2 * 1_000 * 24 * 10 * 2 / (989e12 * 0.4))


def test_broadcast_seconds_count_every_worker() -> None:
    policy = small_policy()
    config = config_of(rollout={"num_workers": 3})

    figure = find(stage_seconds(config, policy, image_model_size("Qwen/Qwen-Image")), "broadcast")

    assert math.isclose(figure.value, 3 * 4 * policy.params / 3.3e9)


def config_of(**sections: dict[str, Any]) -> Config:
    return build_config(sections)


def test_the_published_recipe_is_planned_on_any_machine() -> None:
    plan = make_plan(load_config("gen-searcher-8b"), recipe="gen-searcher-8b")

    assert plan.num_gpus == 4 * 2 + 16 + 1
    assert {f.where for f in plan.seconds} == {
        *("rollout", "tool", "render", "judge", "learn", "broadcast"),
    }
    assert plan.host_bytes > 8_190_735_360 * 16
    assert math.isclose(plan.step_s, sum(f.value for f in plan.seconds))


def test_memory_is_added_up_by_place() -> None:
    plan = make_plan(load_config("gen-searcher-8b"), recipe="gen-searcher-8b")

    places = plan.memory_by_place
    host = sum(size for where, size in places.items() if where.endswith("(host)"))
    assert host == pytest.approx(plan.host_bytes)
    assert {"learner (host)", "learner, its GPU", "rollout, per GPU"} <= set(places)


def test_every_figure_names_its_formula_and_its_source() -> None:
    plan = make_plan(load_config("gen-searcher-8b"), recipe="gen-searcher-8b")

    for figure in (*plan.memory, *plan.seconds):
        assert figure.value > 0, figure
        assert figure.formula, figure
        assert figure.source, figure


def test_a_providers_image_model_takes_no_memory_of_ours() -> None:
    config = load_config("nano", overrides=["render.backend=openai", "render.api.per_second=0.1"])
    plan = make_plan(config, recipe="nano")

    assert not [figure for figure in plan.memory if "render" in figure.where]
    (render,) = [figure for figure in plan.seconds if figure.where == "render"]
    images = config.train.groups_per_step * config.train.group_size
    assert render.value == pytest.approx(images / 0.1), "longer than its waves"
    assert "render actor" not in {placement.role for placement in plan.placements}


def test_every_learner_has_weights_and_gradients_and_a_share_of_the_optimizer() -> None:
    one, two = (
        learner_memory(
            build_config({"learner": {"num_learners": count, "zero_stage": 1}}), small_policy()
        )
        for count in (1, 2)
    )
    times = {f.what: find(two, f.where, f.what).value / f.value for f in one}
    assert times == {
        **{"weights": 2, "gradients": 2, "activations": 2},
        **{"master weights": 1, "optimizer": 1, "checkpoint": 1, "last broadcast": 1},
    }
    assert "x 2 learners" in find(two, "learner (host)", "activations").formula
    alone = learner_memory(build_config({}), small_policy())
    assert find(alone, "learner (host)", "master weights").value == 0, "the weights are float32"


def test_models_that_the_run_serves_are_planned_with_their_most_replicas() -> None:
    served = {"path": "m/judge", "max_replicas": 3, "num_gpus_per_replica": 1}
    config = build_config(
        {
            "judge": {"kind": "served", "served": served},
            "tools": {"summariser": {"max_page_tokens": 512, "served": {"path": "m/reader"}}},
        }
    )
    planned = {place.role: place for place in placements(config)}

    judge, reader = planned["served judge model"], planned["served summariser model"]
    assert (judge.count, judge.gpus, judge.holds) == (3, 1, "vLLM, m/judge, 1 to 3 replicas")
    engines = find(host_memory(config, small_policy()), "processes (host)", "vLLM")
    assert engines.formula.startswith(f"{config.rollout.num_workers + 4} x")
    assert (reader.count, reader.holds) == (1, "vLLM, m/reader, 1 to 1 replicas")


def test_a_served_models_weights_and_cache_are_planned_where_they_lie(tmp_path: Path) -> None:
    """A text-only reader of 17 stored parameters on CPUs, the published 8B as a judge on GPUs."""
    write_safetensors(tmp_path / "reader", shapes=[[3, 4], [5]])
    known = "Qwen/Qwen3-VL-8B-Instruct"
    judge = {"path": known, "num_gpus_per_replica": 2, "kv_cache_gib": 3, "max_replicas": 4}
    reader = {"path": f"{tmp_path}/reader", "dtype": "float32", "max_replicas": 2}
    config = build_config(
        {
            "judge": {"kind": "served", "served": judge},
            "tools": {"summariser": {"max_page_tokens": 512, "served": reader}},
        }
    )
    assert {(f.where, f.what): f.value for f in served_memory(config)} == {
        ("served judge model, per GPU", "weights"): 8_767_123_696 * 2 / 2,
        ("served judge model, per GPU", "KV cache"): 1.5 * 2**30,
        ("served summariser model (host)", "weights"): 17 * 4 * 2,
        ("served summariser model (host)", "KV cache"): 2 * 2**30,
    }


def test_of_a_served_model_of_unknown_size_the_cache_is_planned() -> None:
    config = config_of(judge={"kind": "served", "served": {"path": "nobody/knows"}})
    assert [figure.what for figure in served_memory(config)] == ["KV cache"]
