"""All-to-all traffic of the experts: a token goes once to each rank that has an expert of it."""

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.router import Router
from planner import Plan, build_plan
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def _count(plan: Plan) -> dict[str, Any]:
    """One forward and backward; counts rows and bytes of every all-to-all of rows, and bytes of those of
    routes and of gates' gradients. `experts`: of each token of this rank's share, by layer."""
    from runtime.data.rows import Rows
    from runtime.training.micro_batch import training_batches

    engine, groups = start(plan)
    sent: list[tuple[int, int]] = []
    small: dict[str, int] = {"routes": 0, "gates": 0}
    original = dist.all_to_all_single

    @functools.wraps(original)
    def counted(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        num_bytes = input.numel() * input.element_size()
        if input.is_floating_point() and input.dim() == 2:
            sent.append((input.shape[0], num_bytes))
        elif input.dtype != torch.int64:
            small["gates" if input.is_floating_point() else "routes"] += num_bytes
        return original(output, input, *args, **kwargs)

    dist.all_to_all_single = counted
    experts: list[list[list[int]]] = []
    hooks = [
        module.register_forward_hook(lambda *args: experts.append(args[2].experts_UK.tolist()))
        for module in engine.modules()
        if isinstance(module, Router)
    ]
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    (batch,) = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    loss, sums = engine(batch, rows.totals())
    for hook in hooks:
        hook.remove()
    engine.backward(loss)
    return {"sent": sent, **small, "counted": sums.expert_tokens.sum(1).tolist(), "experts": experts}


def _rows_of(ranks: list[dict[str, Any]], num_local: int) -> int:
    """Pairs of a token and a rank that has an expert of it, in all layers."""
    return sum(
        len({expert // num_local for expert in chosen})
        for rank in ranks
        for layer in rank["experts"]
        for chosen in layer
    )


@pytest.mark.parametrize(("recompute", "times"), [("layer", 5), ("experts", 4), ("attention", 4)])
def test_a_layer_that_is_recomputed_sends_its_rows_to_the_experts_once_more(
    recompute: str, times: int
) -> None:
    """Backward needs nothing that comes after the experts' last product, so no row comes back again. On all
    ranks together as many rows go there as back."""
    strategy = tiny(
        parallel={"ep": 2, "zero_stage": 0},
        training__micro_batch=8,
        model__num_experts_per_tok=2,
        runtime__recompute=recompute,
    )
    ranks = run_ranks(2, _count, build_plan(strategy))
    model, routes = strategy.model, strategy.training.global_batch * strategy.training.seq_length * 2
    for layer in range(model.num_hidden_layers):
        assert sum(rank["counted"][layer] for rank in ranks) == routes, "counted once"
    total_rows = sum(rows for rank in ranks for rows, _ in rank["sent"])
    assert total_rows == times * _rows_of(ranks, num_local=4)
    assert sum(rank["routes"] for rank in ranks) == model.num_hidden_layers * routes * 8
    assert sum(rank["gates"] for rank in ranks) == model.num_hidden_layers * routes * 4


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("ep", "tp"), [(4, 1), (4, 2), (4, 4), (2, 4)])
def test_each_token_is_sent_once_to_a_rank(ep: int, tp: int, top_k: int) -> None:
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
    assert [sum(rank["counted"][layer] for rank in ranks) for layer in range(layers)] == [routes] * layers
    for rank in ranks:
        assert len(rank["sent"]) == 4 * layers, "dispatch and combine, forward and backward, and no more"
    total_rows = sum(rows for rank in ranks for rows, _ in rank["sent"])
    total_bytes = sum(num_bytes for rank in ranks for _, num_bytes in rank["sent"])
    assert total_rows == 4 * _rows_of(ranks, num_local=8 // ep)
    assert total_rows < 4 * layers * routes or top_k == 1
    assert total_bytes == total_rows * model.hidden_size * 4
    # A gate and a code a route, once; a gate's gradient back.
    assert sum(rank["routes"] for rank in ranks) == layers * routes * 8
    assert sum(rank["gates"] for rank in ranks) == layers * routes * 4
