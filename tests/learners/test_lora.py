import pytest
import torch

from core.config import build_config
from core.errors import ConfigError
from learners.lora import merged


def test_the_product_of_the_factors_is_added() -> None:
    base = {"q.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "norm.weight": torch.ones(2)}
    factors = {"q.lora_A": torch.tensor([[1.0, -1.0]]), "q.lora_B": torch.tensor([[2.0], [4.0]])}
    weights = dict(merged(base, factors, scale=0.5))
    # B A = [[2, -2], [4, -4]]
    assert weights["q.weight"].tolist() == [[2.0, 1.0], [5.0, 2.0]]
    assert weights["norm.weight"] is base["norm.weight"]


def test_the_sum_is_rounded_once() -> None:
    base = {"q.weight": torch.tensor([[256.0]], dtype=torch.bfloat16)}
    factors = {"q.lora_A": torch.tensor([[1.5]]), "q.lora_B": torch.tensor([[1.0]])}
    # In bfloat16 the neighbours of 256 are 2 apart: 257.5 is nearer to 258.
    assert dict(merged(base, factors, scale=1.0))["q.weight"].item() == 258.0


def test_adapters_leave_the_vision_tower_alone() -> None:
    with pytest.raises(ConfigError, match=r"freeze_vision=false needs learner.lora_rank=null"):
        build_config({"learner": {"lora_rank": 8, "freeze_vision": False}})
