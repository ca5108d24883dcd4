"""Fused kernels in layouts: five steps equal those of one process with eager kernels."""

import pytest

from tests.support.reference import tiny
from tests.support.settled import check, padding

LAYOUTS = {
    "ep2_tp2": {"parallel": {"ep": 2, "tp": 2, "zero_stage": 1}},
    "ep4_dp4_zero2": {"parallel": {"ep": 4, "zero_stage": 2}},
    "pp2_ep2": {"parallel": {"pp": 2, "ep": 2, "zero_stage": 1}},
}
MODEL = {
    "model__num_experts_per_tok": 2,
    "model__expert": "swiglu",
    "model__num_shared_experts": 1,
    "model__qk_norm": "projection",
    "training__micro_batch": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_equals_one_process_with_eager_kernels(layout: str) -> None:
    eager = tiny(**LAYOUTS[layout], **MODEL)
    check(tiny(**LAYOUTS[layout], **MODEL, runtime__kernels="fused"), padding, reference=eager)
