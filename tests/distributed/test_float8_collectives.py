"""MAX all-reduces of FP8 products over TP: as many and as large as the planner counts."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist

from planner import Plan, build_plan
from planner.counts.rank_workload import rank_workload
from planner.timing.float8_collectives import attention_maxima, layer_maxima, output_maxima
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def _maxima(plan: Plan) -> tuple[Counter[int], Counter[int]]:
    """Bytes of each MAX all-reduce of one micro-batch, forward and backward, on this rank."""
    from runtime.data.rows import Rows
    from runtime.training.micro_batch import training_batches

    engine, groups = start(plan)
    found: list[int] = []
    original = dist.all_reduce

    def note(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, **options: Any) -> Any:
        if op == dist.ReduceOp.MAX:
            found.append(tensor.numel() * tensor.element_size())
        return original(tensor, op, **options)

    dist.all_reduce = note
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    (batch,) = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    loss, _ = engine(batch, rows.totals())
    forward = Counter(found)
    found.clear()
    engine.backward(loss)
    return forward, Counter(found)


def total(*parts: tuple[tuple[int, int], ...]) -> Counter[int]:
    counted: Counter[int] = Counter()
    for part in parts:
        for times, size in part:
            counted[size] += times
    return counted


@pytest.mark.parametrize(
    ("recompute", "expert", "shared"),
    [("none", "swiglu", 1), ("none", "mlp", 0), ("layer", "mlp", 1), ("attention", "swiglu", 1)],
)
def test_maxima_are_those_that_the_planner_counts(recompute: str, expert: str, shared: int) -> None:
    plan = build_plan(
        tiny(
            parallel={"ep": 2, "tp": 2, "zero_stage": 1},
            training__precision="fp8",
            training__micro_batch=16,
            model__expert=expert,
            model__num_hidden_layers=3,
            model__num_shared_experts=shared,
            model__first_dense_layers=1,
            model__intermediate_size=32,
            runtime__recompute=recompute,
        )
    )
    p = rank_workload(plan, plan.stages[0])
    forward, backward = layer_maxima(p, 1, 2)
    again = {"layer": forward, "attention": attention_maxima(p, 3)}.get(recompute, ())
    for found in run_ranks(2, _maxima, plan):
        assert found == (total(forward, output_maxima(p)), total(backward, again))
        assert found[0].total() > 5
        assert found[1].total() > 9
