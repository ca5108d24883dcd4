"""What DeepSpeed's ZeRO is spared: copies of gradients without peers, of partitions, of fp32 weights."""

from typing import Any

import pytest
import torch

import runtime.training.engine
from model.observers import NO_CLOCK
from planner import Plan, build_plan
from planner.counts.parameters import stage_parameters
from runtime.data.rows import Rows
from runtime.training.grad_norm import is_expert
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def _in_buckets(plan: Plan, lean: bool) -> tuple[int, bool]:
    """Elements that a step puts into DeepSpeed's buckets, and whether there was a bucket."""
    if not lean:
        runtime.training.engine.make_lean = lambda optimizer: None
    engine, groups = start(plan)
    optimizer, elements, made = engine.optimizer, 0, False
    average = optimizer.average_tensor

    def counted(tensor: Any, dtype: Any) -> None:
        nonlocal elements, made
        elements += tensor.numel()
        made = True
        average(tensor, dtype)

    optimizer.average_tensor = counted
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    return elements, made


def _elements(plan: Plan, *, experts: bool) -> int:
    tensors = stage_parameters(plan.strategy.model, plan.stages[0])
    return sum(tensor.num_elements for tensor in tensors if tensor.is_expert is experts)


@pytest.mark.parametrize("zero_stage", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_gradients_with_peers_are_reduced(precision: str, zero_stage: int) -> None:
    changes = {"training__precision": precision, "training__micro_batch": 8}
    plan = build_plan(tiny(parallel={"ep": 2, "zero_stage": zero_stage}, **changes))
    assert run_ranks(2, _in_buckets, plan, True) == [(_elements(plan, experts=False), True)] * 2
    alone = build_plan(tiny(parallel={"zero_stage": zero_stage}, **changes))
    assert run_ranks(1, _in_buckets, alone, True) == [(0, False)]


def _flattened_without_zero(plan: Plan) -> int:
    """Elements that ZeRO 0 flattens to reduce them in one step."""
    engine, groups = start(plan)
    elements = 0
    reduce = engine.allreduce_bucket

    def counted(bucket: Any, *args: Any, **options: Any) -> Any:
        nonlocal elements
        elements += sum(tensor.numel() for tensor in bucket)
        return reduce(bucket, *args, **options)

    engine.allreduce_bucket = counted
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    return elements


def test_without_zero_only_gradients_with_peers_are_flattened() -> None:
    plan = build_plan(tiny(parallel={"ep": 2, "zero_stage": 0}, training__micro_batch=8))
    assert run_ranks(2, _flattened_without_zero, plan) == [_elements(plan, experts=False)] * 2
    alone = build_plan(tiny(parallel={"zero_stage": 0}, training__micro_batch=8))
    assert run_ranks(1, _flattened_without_zero, alone) == [0]


def test_deepspeed_still_copies_gradients_without_peers() -> None:
    """A failure is good news: runtime/training/lean_zero.py may leave reductions alone."""
    plan = build_plan(tiny(parallel={"zero_stage": 1}, training__precision="bf16", training__micro_batch=16))
    everything = _elements(plan, experts=False) + _elements(plan, experts=True)
    assert run_ranks(1, _in_buckets, plan, False) == [(everything, True)]


def _sum_of_small_and_large(plan: Plan) -> list[float]:
    """The first elements of a dense gradient and of an expert's, as the optimizer gets them after
    micro-batches that add 256, 1, 1 and 1."""
    engine, groups = start(plan)
    optimizer = engine.optimizer
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    values = iter((256.0, 1.0, 1.0, 1.0))
    made = {"value": 0.0}
    for parameter in engine.module.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, made["value"]))
    found: list[float] = []
    update = optimizer.update_partition

    def caught(group: int, divisor: Any) -> None:
        found.append(float(next(optimizer.gradients_of(group))[1][0]))
        update(group, divisor)

    optimizer.update_partition = caught
    totals = rows.totals()
    for number, batch in enumerate(batches):
        made["value"] = next(values)
        loss, _ = engine(batch, totals, number)
        engine.backward(loss)
        engine.step()
    return found


@pytest.mark.parametrize("reduce", ["once", "every_micro_batch"])
def test_gradients_without_peers_stay_in_fp32_to_the_end(reduce: str) -> None:
    """bf16 has 258 and 260, not 259."""
    plan = build_plan(
        tiny(
            parallel={"zero_stage": 1},
            runtime={"reduce": reduce},
            training__precision="bf16",
            training__micro_batch=4,
        )
    )
    assert plan.batch.accumulation == 4
    assert set(run_ranks(1, _sum_of_small_and_large, plan)[0]) == {259.0}


def _shares_memory(plan: Plan) -> list[bool]:
    optimizer = start(plan)[0].optimizer
    weights = {flat.untyped_storage().data_ptr() for flat in optimizer.bit16_groups_flat}
    return [m.untyped_storage().data_ptr() in weights for m in optimizer.single_partition_of_fp32_groups]


def test_fp32_weights_are_their_own_masters() -> None:
    own = {"ep": 2, "dp": 2, "zero_stage": 1}
    for precision, expected in (("fp32", True), ("bf16", False)):
        plan = build_plan(tiny(parallel=own, training__precision=precision, training__micro_batch=4))
        assert all(set(found) == {expected} for found in run_ranks(4, _shares_memory, plan))


def _moved_gradients(plan: Plan) -> int:
    """How many of the experts' gradients the optimizer takes from elsewhere than autograd left them."""
    engine, groups = start(plan)
    optimizer = engine.optimizer
    where: dict[int, int] = {}
    experts = [p for p in engine.module.parameters() if is_expert(p)]
    for parameter in experts:
        parameter.register_post_accumulate_grad_hook(lambda p: where.__setitem__(id(p), p.grad.data_ptr()))
    taken: set[int] = set()
    update = optimizer.update_partition

    def caught(group: int, divisor: Any) -> None:
        taken.update(gradient.data_ptr() for _, gradient in optimizer.gradients_of(group))
        update(group, divisor)

    optimizer.update_partition = caught
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    assert len(where) == len(experts)
    return len(set(where.values()) - taken)


def test_the_optimizer_takes_gradients_where_autograd_made_them() -> None:
    plan = build_plan(tiny(parallel={"ep": 2}, training__precision="bf16", training__micro_batch=8))
    assert run_ranks(2, _moved_gradients, plan) == [0, 0]
