"""Fault injection into the comparison: one mistake in the product, and the comparison names its effect."""

from dataclasses import replace

import pytest

from tests.support import faults
from tests.support.equality import TOLERANCE, assert_equal, differences
from tests.support.faults import Fault
from tests.support.layout import run_layout
from tests.support.matrix import Case, Layout
from tests.support.reference import Trajectory
from tests.support.settled import settled, with_seed

EXPERT_PARALLEL = Layout(ep=2, tp=1, dp=2)
BOTH = Layout(ep=2, tp=2, dp=2)
DENSE, EXPERT, ROUTER = (f"gradient of {family}" for family in ("dense", "expert", "router"))
ALL = {DENSE, EXPERT, ROUTER}
CLIPPED = {f"clipped {kind}" for kind in ALL}

# fault, layout, ZeRO stage, what the first step must show as different, and as equal
CASES = {
    "dense-gradients-unreduced": (
        faults.unreduced("data"),
        EXPERT_PARALLEL,
        0,
        {DENSE, ROUTER},
        {"loss", EXPERT},
    ),
    "dense-gradients-unreduced-zero2": (
        faults.unreduced("data"),
        EXPERT_PARALLEL,
        2,
        {DENSE, ROUTER},
        {"loss", EXPERT},
    ),
    "expert-gradients-unreduced": (
        faults.unreduced("edp"),
        EXPERT_PARALLEL,
        0,
        {EXPERT},
        {"loss", DENSE, ROUTER},
    ),
    "expert-gradients-unreduced-zero2": (
        faults.unreduced("edp"),
        EXPERT_PARALLEL,
        2,
        {EXPERT},
        {"loss", DENSE, ROUTER},
    ),
    "gradients-averaged": (faults.averaged, EXPERT_PARALLEL, 0, ALL | {"norm"}, {"loss"}),
    "gradients-averaged-zero1": (faults.averaged, BOTH, 1, ALL | {"norm"}, {"loss"}),
    "loss-doubled": (faults.doubled_loss, EXPERT_PARALLEL, 1, ALL | {"norm"}, {"loss", "aux loss", "z-loss"}),
    "tp-copy-unsummed": (faults.uncopied, BOTH, 1, {DENSE, "norm"}, {"loss"}),
    "routers-unsummed": (faults.unsummed_routers, BOTH, 1, {ROUTER, "norm"}, {"loss", DENSE, EXPERT}),
    "both-partners-compute": (faults.both_partners_compute, BOTH, 1, {EXPERT, "routes"}, {"loss", DENSE}),
    "experts-permuted": (faults.permuted_experts, EXPERT_PARALLEL, 1, {"loss"}, set()),
    "balance-per-rank": (faults.local_balance, EXPERT_PARALLEL, 1, {ROUTER}, {"loss", "aux loss", "z-loss"}),
    "norm-counts-experts-twice": (
        faults.experts_count(2),
        EXPERT_PARALLEL,
        0,
        {"norm"} | CLIPPED,
        {"loss"} | ALL,
    ),
    "norm-counts-experts-twice-zero2": (faults.experts_count(2), BOTH, 2, {"norm"} | CLIPPED, {"loss"} | ALL),
    "norm-misses-experts": (faults.experts_count(0), EXPERT_PARALLEL, 1, {"norm"} | CLIPPED, {"loss"} | ALL),
    "clipped-by-local-norm": (faults.local_norm, EXPERT_PARALLEL, 1, {"norm"} | CLIPPED, {"loss"}),
    "another-seed": (faults.another_seed(None), EXPERT_PARALLEL, 1, {"loss"}, set()),
    "another-seed-on-one-rank": (faults.another_seed(1), BOTH, 1, {"loss"}, set()),
}


@pytest.mark.parametrize(("fault", "layout", "zero_stage", "different", "same"), CASES.values(), ids=CASES)
def test_a_fault_is_seen_for_what_it_is(
    fault: Fault, layout: Layout, zero_stage: int, different: set[str], same: set[str]
) -> None:
    case = Case(layout=layout, zero_stage=zero_stage, top_k=2, balance_loss=0.5, z_loss=0.05)
    seed, expected = settled(case.reference)
    found = run_layout(with_seed(case.strategy, seed), before=fault, replicas_agree=False)
    with pytest.raises(AssertionError, match="differs from one process") as error:
        assert_equal(found, expected)
    shown = differences(_first_step(found), _first_step(expected))
    far = {kind for kind, (value, _) in shown.items() if not value <= TOLERANCE}
    assert different <= far
    assert not same & far
    assert all(kind in str(error.value) for kind in different)


def test_without_a_fault_the_same_cases_are_equal() -> None:
    for layout in (EXPERT_PARALLEL, BOTH):
        case = Case(layout=layout, top_k=2, balance_loss=0.5, z_loss=0.05)
        seed, expected = settled(case.reference)
        assert_equal(run_layout(with_seed(case.strategy, seed), replicas_agree=False), expected)


def _first_step(course: Trajectory) -> Trajectory:
    """Before an update has spread a mistake to everything else."""
    lists = ("losses", "aux_losses", "z_losses", "norms", "gradients", "expert_tokens")
    return replace(course, final={}, **{name: getattr(course, name)[:1] for name in lists})
