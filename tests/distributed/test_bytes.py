"""All-to-all traffic of the experts: each route is sent once, by one TP rank only."""

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist

from planner import Plan, build_plan
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def _count(plan: Plan) -> dict[str, Any]:
    """One forward and backward; counts rows and bytes of every all-to-all of rows, and those of gates."""
    from runtime.data.rows import Rows
    from runtime.training.micro_batch import training_batches

    engine, groups = start(plan)
    sent: list[tuple[int, int]] = []
    gates: list[int] = []
    original = dist.all_to_all_single

    @functools.wraps(original)
    def counted(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if input.is_floating_point() and input.dim() == 1:
            gates.append(input.numel() * input.element_size())
        elif input.is_floating_point():
            sent.append((input.shape[0], input.numel() * input.element_size()))
        return original(output, input, *args, **kwargs)

    dist.all_to_all_single = counted
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    (batch,) = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    loss, sums = engine(batch, rows.totals())
    engine.backward(loss)
    return {"sent": sent, "gates": gates, "routes": sums.expert_tokens.sum(1).tolist()}


@pytest.mark.parametrize(("recompute", "times"), [("layer", 5), ("experts", 4), ("attention", 4)])
def test_a_layer_that_is_recomputed_sends_its_rows_to_the_experts_once_more(
    recompute: str, times: int
) -> None:
    """Backward needs nothing that comes after the experts' last product, so no row comes back again."""
    strategy = tiny(
        parallel={"ep": 2, "zero_stage": 0},
        training__micro_batch=8,
        model__num_experts_per_tok=2,
        runtime__recompute=recompute,
    )
    ranks = run_ranks(2, _count, build_plan(strategy))
    model, routes = strategy.model, strategy.training.global_batch * strategy.training.seq_length * 2
    for layer in range(model.num_hidden_layers):
        assert sum(rank["routes"][layer] for rank in ranks) == routes, "counted once"
    total_bytes = sum(num_bytes for rank in ranks for _, num_bytes in rank["sent"])
    assert total_bytes == times * model.num_hidden_layers * routes * model.hidden_size * 4
    gates_bytes = sum(num_bytes for rank in ranks for num_bytes in rank["gates"])
    assert gates_bytes == (times - 2) * model.num_hidden_layers * routes * 4


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(("ep", "tp"), [(4, 1), (4, 2), (4, 4), (2, 4)])
def test_each_route_is_sent_once(ep: int, tp: int, top_k: int) -> None:
    world = max(ep, tp)
    strategy = tiny(
        parallel={"ep": ep, "tp": tp, "zero_stage": 0},
        training__micro_batch=16 * tp // world,
        model__num_experts_per_tok=top_k,
    )
    ranks = run_ranks(world, _count, build_plan(strategy))
    training, model = strategy.training, strategy.model
    routes = training.global_batch * training.seq_length * top_k
    layers = model.num_hidden_layers
    # tp partners' shares differ by at most one token, and together they are all tokens once.
    assert [sum(rank["routes"][layer] for rank in ranks) for layer in range(layers)] == [routes] * layers
    for rank in ranks:
        assert len(rank["sent"]) == 4 * layers, "dispatch and combine, forward and backward, and no more"
    total_rows = sum(rows for rank in ranks for rows, _ in rank["sent"])
    total_bytes = sum(num_bytes for rank in ranks for _, num_bytes in rank["sent"])
    assert total_rows == 4 * layers * routes
    assert sum(num_bytes for rank in ranks for num_bytes in rank["gates"]) == 2 * layers * routes * 4
    assert total_bytes == total_rows * model.hidden_size * 4
