"""A plan that no node's memory can hold is refused with its numbers."""

import pytest

from cluster.plan.memory_fit import refuse_too_little_memory
from cluster.plan.plan import make_plan
from core.config import load_config
from core.errors import ConfigError

GIB = 2**30
PLAN = make_plan(load_config("gen-searcher-8b"), recipe="gen-searcher-8b")
BIG = {"memory": 400.0 * GIB, "object_store_memory": 100.0 * GIB, "GPU": 8.0}


def test_the_learner_needs_one_node_that_holds_all_of_it() -> None:
    """8.77 B parameters of 2 bytes, and 8.19 B trained ones of 16: 16.3 + 122.1 GiB; copies for a
    checkpoint (16.3 + 91.5) and of what was last sent (16.3)."""
    small = {"memory": 100.0 * GIB, "object_store_memory": 30.0 * GIB}
    refuse_too_little_memory(PLAN, nodes=[small, BIG])
    with pytest.raises(
        ConfigError, match=r"learner \(host\) needs about 26\d\.\d GiB \(weights 16\.3"
    ) as e:
        refuse_too_little_memory(PLAN, nodes=[small, small])
    assert "optimizer 61.0" in str(e.value)
    assert "the largest node offers Ray 130.0" in str(e.value)


def test_no_gpu_may_be_too_small_for_a_rollout_worker() -> None:
    with pytest.raises(ConfigError, match=r"GPU needs about .* the largest GPU has 16\.0"):
        refuse_too_little_memory(PLAN, nodes=[BIG | {"accelerator_type:T4": 1.0}])
    refuse_too_little_memory(PLAN, nodes=[BIG | {"accelerator_type:H100": 1.0}])


def test_what_is_not_known_is_believed() -> None:
    refuse_too_little_memory(PLAN, nodes=[BIG])
    refuse_too_little_memory(PLAN, nodes=[BIG | {"accelerator_type:X9": 1.0}])
    refuse_too_little_memory(PLAN, nodes=[{"CPU": 8.0}])


def test_the_nano_recipe_fits_a_laptop() -> None:
    plan = make_plan(load_config("nano"), recipe="nano")
    refuse_too_little_memory(plan, nodes=[{"memory": 6.0 * GIB, "object_store_memory": 1.0 * GIB}])
