"""Placement: the nano recipe fits two logical CPUs, and what cannot fit is refused by name."""

import pytest

from cluster.plan.placement import Demand, demands, refuse_what_cannot_fit
from core.config import build_config, load_config
from core.errors import ConfigError


def test_the_nano_recipe_asks_for_at_most_two_logical_cpus() -> None:
    asked = demands(load_config("nano"))
    assert sum(demand.num_cpus for demand in asked) <= 2
    assert sum(demand.num_gpus for demand in asked) == 0
    refuse_what_cannot_fit(asked, nodes=[{"CPU": 2.0}])


def test_a_demand_that_no_node_can_hold_is_refused_though_the_sum_would_do() -> None:
    engine = Demand(
        name="rollout worker", num_cpus=1, num_gpus=2, setting="rollout.num_gpus_per_worker"
    )
    one_gpu = {"CPU": 8.0, "GPU": 1.0}
    with pytest.raises(ConfigError, match=r"rollout worker \(1 CPU, 2 GPU\).*num_gpus_per_worker"):
        refuse_what_cannot_fit([engine], nodes=[one_gpu, one_gpu])
    refuse_what_cannot_fit([engine], nodes=[one_gpu, {"CPU": 8.0, "GPU": 2.0}])


def test_what_is_there_and_what_is_asked_are_named() -> None:
    config = build_config({"rollout": {"num_workers": 9}})
    with pytest.raises(ConfigError, match=r"asks for 5.4 CPU .* of 1 has 2 CPU and 0 GPU"):
        refuse_what_cannot_fit(demands(config), nodes=[{"CPU": 2.0}])


def test_a_learner_on_a_gpu_has_one_of_its_own() -> None:
    asked = demands(build_config({"learner": {"device": "cuda"}}))
    assert [demand.num_gpus for demand in asked if demand.name == "learner"] == [1]


def test_a_providers_image_model_asks_for_no_place() -> None:
    config = build_config({"render": {"backend": "openai", "num_gpus_per_replica": 1}})

    assert "render actor" not in {demand.name for demand in demands(config)}
    assert sum(demand.num_gpus for demand in demands(config)) == 0


def test_every_model_that_the_run_serves_has_its_place() -> None:
    served = {"path": "m", "min_replicas": 2, "max_replicas": 2, "num_gpus_per_replica": 0.5}
    config = build_config(
        {
            "judge": {"kind": "served", "served": {"path": "j", "num_gpus_per_replica": 1}},
            "tools": {"summariser": {"max_page_tokens": 512, "served": served}},
        }
    )
    asked = [demand for demand in demands(config) if demand.name.startswith("served")]

    assert [(demand.name, demand.num_gpus) for demand in asked] == [
        ("served judge model", 1.0),
        *[("served summariser model", 0.5)] * 2,
    ]
    with pytest.raises(ConfigError, match=r"lower tools\.summariser\.served\.min_replicas"):
        refuse_what_cannot_fit(asked[1:], nodes=[{"CPU": 8.0, "GPU": 0.5}])
