"""Uneven work: ranks, shares and experts without tokens equal one process and do not hang."""

import numpy as np
import pytest
import torch

from planner import Strategy
from tests.support.layout import run_layout
from tests.support.matrix import Layout
from tests.support.reference import STEPS, tiny
from tests.support.settled import Masks, check, padding, settled, with_seed

LAYOUTS = (
    Layout(ep=4, tp=1, dp=1),
    Layout(ep=4, tp=2, dp=1),
    Layout(ep=4, tp=4, dp=1),
    Layout(ep=2, tp=4, dp=1),
    Layout(ep=1, tp=4, dp=1),
)


def strategy_of(layout: Layout, **changes: object) -> Strategy:
    degrees = {"ep": layout.ep, "tp": layout.tp, "dp": layout.dp, "zero_stage": 1}
    settings = {"training__micro_batch": 16 // layout.data, "model__num_experts_per_tok": 2}
    return tiny(parallel=degrees, **(settings | changes))


@pytest.mark.parametrize("seq_length", [1, 3])
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.tp > 1], ids=str)
def test_token_counts_that_tp_does_not_divide(layout: Layout, seq_length: int) -> None:
    """One sequence a micro-batch: of one or three tokens, some of four partners have no token at all.

    A single token attends to itself whatever its query and key are: their gradients are but rounding, of
    which AdamW makes steps.
    """
    check(
        strategy_of(
            layout,
            training__seq_length=seq_length,
            training__micro_batch=1,
            training__global_batch=4 * layout.data,
        ),
        noise=("q_proj.weight", "k_proj.weight") if seq_length == 1 else (),
    )


def _all_to_the_first() -> None:
    _prefer(torch.tensor([4.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.0, 0.0]))


def _prefer(bias_E: torch.Tensor) -> None:
    """The routers rank by probability plus this, which never changes: probabilities are below 1."""
    from model.router import Router

    create = Router.__init__

    def create_biased(self: Router, *args: object) -> None:
        create(self, *args)
        self.register_buffer("bias", bias_E.clone())

    Router.__init__ = create_biased


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_all_tokens_to_one_expert_and_none_to_another(layout: Layout, top_k: int) -> None:
    """With k = 1 seven experts, and all ranks but one of an expert group, get no token."""
    strategy = strategy_of(
        layout,
        model__num_experts_per_tok=top_k,
        training__balance="bias",
        training__bias_update_speed=0.0,
    )
    check(strategy, before=_all_to_the_first)
    _, course = settled(strategy, before=_all_to_the_first)
    routes = 16 * 5
    for counts_LE in course.expert_tokens:
        assert counts_LE[:, 0].tolist() == [routes] * 2
        assert counts_LE[:, 3].tolist() == [0, 0]
        assert counts_LE.sum(1).tolist() == [routes * top_k] * 2


def first_half_is_padding(strategy: Strategy) -> Masks:
    """The first eight of sixteen sequences have no valid token: two of 4 data-parallel ranks have nothing."""
    training = strategy.training
    mask = np.ones((training.global_batch, training.seq_length), dtype=bool)
    mask[: training.global_batch // 2] = False
    return dict.fromkeys(range(STEPS), mask)


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
def test_a_rank_whose_sequences_are_all_padding(layout: Layout, dispatch: str) -> None:
    strategy = strategy_of(
        layout,
        model__dispatch=dispatch,
        model__capacity_factor=1.0 if dispatch == "capacity" else None,
    )
    check(strategy, first_half_is_padding)


@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("dispatch", ["dropless", "capacity", "deepspeed"])
def test_fewer_expert_ranks_than_partners(ep: int, dispatch: str) -> None:
    """A TP group covers tp/ep expert groups: its partners' shares go to different copies of an expert."""
    losses = {"training__balance_loss": 0.0, "training__z_loss": 0.0}
    changes = {
        "model__dispatch": dispatch,
        "model__capacity_factor": 1.0 if dispatch == "capacity" else None,
        "training__seq_length": 4,
    } | (losses if dispatch == "deepspeed" else {})
    reference = strategy_of(Layout(ep=1, tp=1, dp=1), **changes | {"model__dispatch": "dropless"})
    strategy = strategy_of(Layout(ep=ep, tp=4, dp=2), **changes)
    check(strategy, reference=reference if dispatch == "deepspeed" else None)


def test_stock_dispatch_refuses_what_it_cannot_do() -> None:
    """A mask reaches no planner rule: the layer itself has to say it."""
    strategy = strategy_of(
        LAYOUTS[0],
        model__dispatch="deepspeed",
        training__balance_loss=0.0,
        training__z_loss=0.0,
    )
    with pytest.raises(AssertionError, match="dispatch deepspeed does not support masked tokens"):
        run_layout(with_seed(strategy, 1), padding(strategy))
