"""Parity of layouts and models that the matrix has no axis for, such as four replicas."""

import pytest

from tests.support.reference import tiny
from tests.support.settled import check


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("ep", [1, 2, 4])
def test_expert_parallel_equals_one_process(ep: int, zero_stage: int) -> None:
    """dp = 4 / ep: plain data parallelism of four, two copies, one copy."""
    parallel = {"ep": ep, "dp": 4 // ep, "zero_stage": zero_stage}
    check(tiny(parallel=parallel, training__micro_batch=4))


@pytest.mark.parametrize(
    "changes",
    [
        {"model__num_experts_per_tok": 3, "model__norm_topk_prob": False, "model__hidden_act": "relu"},
        {"model__num_key_value_heads": 2, "model__expert": "swiglu"},
        {"model__qk_norm": "head", "model__aggregation": "none", "model__hidden_act": "gelu"},
    ],
    ids=lambda c: "-".join(f"{k.split('__')[1]}={v}" for k, v in c.items()),
)
@pytest.mark.parametrize(("tp", "zero_stage"), [(1, 0), (2, 2)])
def test_model_variants_equal_one_process(changes: dict[str, object], tp: int, zero_stage: int) -> None:
    parallel = {"ep": 2, "tp": tp, "dp": 2, "zero_stage": zero_stage}
    check(tiny(parallel=parallel, training__micro_batch=2, **changes))
