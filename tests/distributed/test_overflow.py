"""A gradient that is not finite on one rank makes every rank skip the same step, and nothing else changes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.observers import NO_CLOCK
from planner import Plan, build_plan
from runtime.checkpoint.engine_state import optimizer_steps, views
from runtime.data.rows import Rows
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def three_steps(plan: Plan, poisoned_rank: int, poison: float, where: str) -> dict[str, Any]:
    """Steps 0 and 2 are sound; in step 1 one rank's gradient of one parameter is poisoned."""
    engine, groups = start(plan)
    rank = dist.get_rank()
    is_on = [False]
    if rank == poisoned_rank:
        parameter = dict(engine.module.named_parameters())[where]
        parameter.register_hook(lambda grad: grad * poison if is_on[0] else grad)
    before: list[torch.Tensor] = []
    result: dict[str, Any] = {"skipped": [], "norms": []}
    for step in range(3):
        rows = Rows(tokens_BS1=tokens_of(plan.strategy, step))
        batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
        is_on[0] = step == 1
        state = [view.tensor.clone() for view in views(engine, groups)]
        totals = rows.totals()
        outcome = train_step(engine, groups, batches, totals, NO_CLOCK)
        result["skipped"].append(outcome.skipped)
        result["norms"].append(outcome.grad_norm)
        after = [view.tensor for view in views(engine, groups)]
        same = all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
        result.setdefault("unchanged", []).append(same)
        before = after
    result["finite"] = all(bool(torch.isfinite(t).all()) for t in before)
    result["optimizer_steps"] = optimizer_steps(engine)
    return result


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("precision", "zero_stage"), [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]
)
@pytest.mark.parametrize("where", ["model.lm_head.weight", "model.model.layers.1.mlp.experts.up_proj"])
def test_every_rank_skips(precision: str, zero_stage: int, poison: float, where: str) -> None:
    plan = build_plan(
        tiny(
            parallel={"ep": 4, "tp": 2, "zero_stage": zero_stage},
            training__precision=precision,
            training__micro_batch=4,
        )
    )
    for result in run_ranks(plan.world_size, three_steps, plan, 3, poison, where):
        assert result["skipped"] == [False, True, False]
        assert result["unchanged"] == [False, True, False]
        assert result["finite"]
        assert result["optimizer_steps"] == 2
