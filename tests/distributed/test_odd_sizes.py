"""Sizes with no common divisor: worlds of 3 and 6, partially filled partitions, odd widths."""

from typing import Any

import numpy as np
import pytest

from tests.support.layout import run_layout
from tests.support.reference import tiny
from tests.support.settled import check

ODD = {
    "model__num_experts": 12,
    "model__vocab_size": 47,
    "model__hidden_size": 20,
    "model__head_dim": 4,
    "model__moe_intermediate_size": 10,
    "model__first_dense_layers": 1,
    "model__intermediate_size": 33,
    "model__num_experts_per_tok": 2,
    "model__aggregation": "none",
}


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("degrees", [{"ep": 2, "tp": 2, "dp": 3}, {"ep": 8, "tp": 2}], ids=str)
def test_tp_ranks_stay_bit_equal_when_tp_does_not_divide_the_vocabulary(
    degrees: dict[str, int], zero_stage: int
) -> None:
    """The sum over three or more ranks depends on where in a buffer an element is, by the last bit."""
    data = degrees.get("dp", 1) * max(degrees["ep"], degrees["tp"]) // 2
    strategy = tiny(
        model__num_experts=8,
        model__num_experts_per_tok=4,
        model__hidden_size=20,
        model__head_dim=2,
        model__vocab_size=31,
        parallel=degrees | {"zero_stage": zero_stage},
        training__seq_length=7,
        training__micro_batch=2,
        training__global_batch=4 * data,
        training__z_loss=0.05,
    )
    check(strategy)


@pytest.mark.parametrize(
    ("degrees", "heads"),
    [({"ep": 3, "dp": 2}, 4), ({"ep": 1, "dp": 3}, 4), ({"ep": 3, "tp": 3, "dp": 2}, 12), ({"tp": 3}, 12)],
    ids=str,
)
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_odd_sizes_equal_one_process(degrees: dict[str, int], heads: int, zero_stage: int) -> None:
    changes: dict[str, Any] = ODD | {"model__num_attention_heads": heads, "model__num_key_value_heads": heads}
    check(
        tiny(
            parallel=degrees | {"zero_stage": zero_stage},
            training__global_batch=12,
            training__micro_batch=1,
            **changes,
        )
    )


def test_the_norm_is_exact_with_ten_million_elements_in_a_tensor() -> None:
    """fp32 sums of so many squares would be off by 4e-4, and by less on ranks that split the tensor."""
    strategy = tiny(
        parallel={"tp": 2, "zero_stage": 1},
        model__vocab_size=44_000,
        model__hidden_size=256,
        model__head_dim=8,
        training__seq_length=8,
        training__global_batch=2,
        training__micro_batch=2,
        training__gradient_clipping=0,
    )
    trajectory = run_layout(strategy)
    for norm, gradients in zip(trajectory.norms, trajectory.gradients, strict=True):
        squares = [np.square(gradient.double().numpy()).sum() for gradient in gradients.values()]
        assert norm == pytest.approx(np.sqrt(sum(squares)), rel=2e-7)
