"""Every colocated layout trains the same model as one process; other settings are covered pairwise."""

import itertools

import pytest

from tests.support.matrix import AXES, CUTS, LAYOUTS, Case, Layout, covering, everything, in_cuts, pairs
from tests.support.settled import check, padding


@pytest.mark.parametrize("case", covering(), ids=str)
def test_a_layout_equals_one_process(case: Case) -> None:
    check(case.strategy, padding if case.is_padded else None, case.reference)


# One of each cut; all of them are in `make test-all`.
QUICK = dict(zip(CUTS, ((0, 2), (1, 4), (2, 2), (1, 1)), strict=True))


@pytest.mark.parametrize(
    "case",
    [
        case
        if QUICK[case.layout] == (case.zero_stage, case.accumulation)
        else pytest.param(case, marks=pytest.mark.slow)
        for case in in_cuts()
    ],
    ids=str,
)
def test_stages_of_unequal_length_equal_one_process(case: Case) -> None:
    check(case.strategy)


def test_the_layouts_are_those_of_the_grid() -> None:
    grid = {
        (2, (2, 1, 1), (2, 2, 1), (1, 2, 1), (1, 1, 2)),
        (4, (4, 1, 1), (4, 2, 1), (4, 4, 1), (2, 4, 1), (1, 4, 1), (2, 1, 2), (2, 2, 2), (1, 2, 2)),
        (8, (8, 1, 1), (8, 2, 1), (8, 4, 1), (4, 1, 2), (4, 2, 2), (4, 4, 2), (2, 4, 2), (1, 4, 2)),
    }
    expected = {Layout(ep=ep, tp=tp, dp=dp): world for world, *degrees in grid for ep, tp, dp in degrees}
    assert {layout: layout.world for layout in LAYOUTS} == expected


def test_the_covering_set_has_every_legal_pair_in_at_most_150_cases() -> None:
    cases = covering()
    assert len(cases) == len(set(cases)) <= 150
    met = set().union(*map(pairs, cases))
    missing = [
        pair
        for one, other in itertools.combinations(AXES, 2)
        for pair in itertools.product(*([(name, value) for value in AXES[name]] for name in (one, other)))
        if pair not in met
    ]
    # DeepSpeed's own gate takes no mask and has neither loss.
    stock = ("dispatch", "deepspeed")
    assert missing == [
        (stock, ("is_padded", True)),
        (stock, ("balance_loss", AXES["balance_loss"][1])),
        (stock, ("z_loss", AXES["z_loss"][1])),
    ]


def test_all_cases_are_the_full_product() -> None:
    assert len(everything()) == 20 * 3 * 2 * 3 * 2 * 2 * 3
    assert len({str(case) for case in everything()}) == len(everything())
