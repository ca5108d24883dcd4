"""Fused kernels in layouts: five steps equal those of one process with eager kernels."""

import pytest

from model.fused import Kernel
from tests.support.equality import assert_equal
from tests.support.layout import run_layout
from tests.support.ranks import World
from tests.support.reference import tiny
from tests.support.settled import check, padding, settled, with_seed

LAYOUTS = {
    "ep2_tp2_dp2": {"parallel": {"ep": 2, "tp": 2, "dp": 2, "zero_stage": 1}},
    "ep4_zero2": {"parallel": {"ep": 4, "zero_stage": 2}},
    "pp2_ep2": {"parallel": {"pp": 2, "ep": 2, "zero_stage": 1}},
}
MODEL = {
    "model__num_experts_per_tok": 2,
    "model__expert": "swiglu",
    "model__num_shared_experts": 1,
    "model__qk_norm": "projection",
    "training__micro_batch": 2,
}
COMPILE_S = 1200  # some twenty kernels on a machine with other work


def do_not_compile() -> None:
    """In every rank: regions, their backward passes and where they are used, without the compiler's part."""
    Kernel._compiled_for = lambda kernel, args: kernel.function  # type: ignore[method-assign]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_regions_in_a_layout_equal_one_process_with_eager_kernels(layout: str) -> None:
    eager = tiny(**LAYOUTS[layout], **MODEL)
    fused = tiny(**LAYOUTS[layout], **MODEL, runtime__kernels="fused")
    check(fused, padding, reference=eager, before=do_not_compile)


@pytest.mark.slow
def test_layouts_equal_one_process_with_eager_kernels() -> None:
    """Compiled, in ranks that keep their kernels from one layout to the next."""
    with World(4, timeout=COMPILE_S) as world:
        for layout in LAYOUTS.values():
            seed, expected = settled(tiny(**layout, **MODEL), padding)
            fused = with_seed(tiny(**layout, **MODEL, runtime__kernels="fused"), seed)
            assert_equal(run_layout(fused, padding(fused), timeout=COMPILE_S, world=world), expected)
