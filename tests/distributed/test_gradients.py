"""Expert gradients, router gradients and auxiliary losses, each on its own, before clipping."""

import pytest

from tests.support.equality import assert_equal, differences, family
from tests.support.layout import run_layout
from tests.support.matrix import Case, Layout
from tests.support.settled import padding, settled, with_seed


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize(
    "layout",
    [
        Layout(ep=4, tp=1, dp=2),  # edp 2: each expert on two data-parallel ranks
        Layout(ep=1, tp=2, dp=2),  # edp 4: on both partners of two TP groups
        Layout(ep=2, tp=4, dp=1),  # edp 2: a TP group covers two expert groups
    ],
    ids=str,
)
def test_expert_gradients_are_summed_over_edp_once(layout: Layout, zero_stage: int) -> None:
    """Each expert's slice by itself: beside the whole stack, an expert with few tokens would not be seen."""
    case = Case(layout=layout, zero_stage=zero_stage, top_k=2, shared_experts=1, clipping=0.0)
    seed, expected = settled(case.reference)
    found = run_layout(with_seed(case.strategy, seed))
    names = [name for name in expected.gradients[0] if family(name) == "expert"]
    assert len(names) == 4  # two matrices in two layers
    for name in names:
        mine, theirs = found.gradients[0][name], expected.gradients[0][name]
        assert theirs.shape[0] == 8
        assert (theirs.flatten(1).norm(dim=1) > 0).all(), "an expert has no token"
        assert ((mine - theirs).flatten(1).norm(dim=1) <= 1e-5 * theirs.flatten(1).norm(dim=1)).all()


# With a coefficient of 100, a router's gradient is that of the aux loss, or z-loss, within a few per cent.
@pytest.mark.parametrize(
    ("balance_loss", "z_loss"),
    [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)],
    ids=["entropy", "aux loss", "z-loss"],
)
@pytest.mark.parametrize("tp", [2, 4])
def test_router_gradients_are_summed_over_tp_once(tp: int, balance_loss: float, z_loss: float) -> None:
    case = Case(
        layout=Layout(ep=4, tp=tp, dp=1),
        top_k=2,
        tokens="odd",
        balance_loss=balance_loss,
        z_loss=z_loss,
        clipping=0.0,
    )
    seed, expected = settled(case.reference)
    found = run_layout(with_seed(case.strategy, seed))
    assert_equal(found, expected)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "layout", [Layout(ep=4, tp=1, dp=1), Layout(ep=4, tp=4, dp=1), Layout(ep=2, tp=2, dp=2)], ids=str
)
def test_balance_loss_is_the_global_batchs_mean_over_sequences(layout: Layout, accumulation: int) -> None:
    """With padding: sequences count that have a valid token, each by its own number of tokens."""
    case = Case(
        layout=layout, accumulation=accumulation, top_k=2, tokens="odd", balance_loss=0.5, is_padded=True
    )
    seed, expected = settled(case.reference, padding)
    strategy = with_seed(case.strategy, seed)
    worst = differences(run_layout(strategy, padding(strategy)), expected)
    assert all(balance > 1.9 for balance in expected.aux_losses)  # two layers; 1 each were perfect balance
    assert worst["aux loss"][0] <= 1e-6
    assert worst["gradient of router"][0] <= 1e-5
