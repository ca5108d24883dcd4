"""Parity of layouts with several stages with one process."""

from typing import Any

import pytest

from tests.support.reference import tiny
from tests.support.settled import check, padding

STAGED = {"placement": "staged", "ep": 2, "tp": 2}


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize(
    ("parallel", "micro_batch"),
    [
        ({"placement": "staged", "ep": 4, "tp": 2}, 2),
        ({"placement": "staged", "ep": 2, "tp": 2, "pp": 2}, 2),
        ({"placement": "staged", "ep": 2, "dp": 2}, 1),
        ({"ep": 2, "tp": 2, "pp": 2}, 2),
    ],
    ids=["2+4+2", "2+2·2+2", "dp2", "pp2"],
)
def test_stages_equal_one_process(parallel: dict[str, object], micro_batch: int, zero_stage: int) -> None:
    check(tiny(parallel={**parallel, "zero_stage": zero_stage}, training__micro_batch=micro_batch))


CASES: dict[str, dict[str, Any]] = {
    "more partners than expert ranks": {"parallel": {"placement": "staged", "tp": 2}},
    "both dp and pp, 16 ranks": {"parallel": {**STAGED, "pp": 2, "dp": 2, "zero_stage": 2}},
    "four stages of four layers": {
        "parallel": {"ep": 2, "pp": 4, "zero_stage": 1},
        "model__num_hidden_layers": 4,
    },
    "experts first": {"parallel": {**STAGED, "rank_order": "compact"}},
    "columns and words that tp does not divide": {
        "parallel": {"placement": "staged", "ep": 4, "tp": 4, "zero_stage": 2},
        "model__hidden_size": 18,
        "model__head_dim": 4,
        "model__vocab_size": 47,
        "model__aggregation": "none",
        "training__micro_batch": 1,
    },
    "three of everything": {
        "parallel": {"placement": "staged", "ep": 3, "tp": 3, "zero_stage": 1},
        "model__num_experts": 6,
        "model__hidden_size": 18,
        "model__head_dim": 4,
        "training__global_batch": 18,
        "training__micro_batch": 1,
    },
    "loss-free balancing": {"parallel": {**STAGED, "pp": 2}, "training__balance": "bias"},
    "a stage without experts": {
        "parallel": {"ep": 2, "pp": 2, "zero_stage": 1},
        "model__first_dense_layers": 1,
        "model__intermediate_size": 20,
    },
    "capacity": {
        "parallel": STAGED,
        "model__dispatch": "capacity",
        "model__capacity_factor": 1.0,
        "model__num_experts_per_tok": 2,
    },
    "stock dispatch": {
        "parallel": STAGED,
        "model__dispatch": "deepspeed",
        "training__balance_loss": 0.0,
        "training__z_loss": 0.0,
    },
    "shared experts, norms of whole projections": {
        "parallel": {"ep": 2, "tp": 2, "pp": 2, "zero_stage": 0},
        "model__num_shared_experts": 1,
        "model__expert": "swiglu",
        "model__num_experts_per_tok": 2,
        "model__qk_norm": "projection",
    },
    "one micro-batch": {"parallel": {**STAGED, "ep": 4, "zero_stage": 1}, "training__micro_batch": 4},
}


@pytest.mark.parametrize("name", CASES)
def test_variants_equal_one_process(name: str) -> None:
    check(tiny(**{"training__micro_batch": 2, **CASES[name]}))


@pytest.mark.parametrize("parallel", [STAGED, {"ep": 2, "tp": 2, "pp": 2}], ids=["staged", "pp2"])
def test_padding_is_the_same_in_stages(parallel: dict[str, object]) -> None:
    check(tiny(parallel=parallel, training__micro_batch=2), padding)
