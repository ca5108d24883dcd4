"""When gradients are reduced: once a step or after every micro-batch, with the same result as one process."""

from typing import Any

import pytest
import torch.distributed as dist

from model.observers import NO_CLOCK
from planner import Plan, build_plan
from runtime.data.rows import Rows
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.noise import beyond, distance_in_bf16, noise
from tests.support.ranks import kept
from tests.support.reference import tiny, tokens_of
from tests.support.settled import check

WAYS = ("once", "every_micro_batch")


def _strategy(zero_stage: int, reduce: str, precision: str) -> Any:
    return tiny(
        parallel={"ep": 2, "dp": 2, "zero_stage": zero_stage},
        runtime={"reduce": reduce},
        training__micro_batch=1,
        training__precision=precision,
    )


@pytest.mark.parametrize("reduce", WAYS)
def test_fp32_equals_one_process(reduce: str) -> None:
    strategy = _strategy(2, reduce, "fp32")
    assert build_plan(strategy).batch.accumulation == 4
    check(strategy)


@pytest.mark.parametrize("zero_stage", [1, 2])
@pytest.mark.parametrize("reduce", WAYS)
def test_bf16_is_within_the_noise(reduce: str, zero_stage: int) -> None:
    strategy = _strategy(zero_stage, reduce, "bf16")
    # The noise is a distance from fp32, and two roundings may be further from each other than either is from
    # it. Only routers are, when sums are rounded once: 1.004 of the noise.
    limits = {k: value * (1.01 if k == "gradient of router" else 1) for k, value in noise(strategy).items()}
    assert beyond(distance_in_bf16(strategy), limits) == {}


def _reduced_elements(plan: Plan) -> tuple[int, set[str]]:
    """Elements that this rank gives to all-reduces of gradients in one step, and their dtypes."""
    engine, groups = start(plan)
    elements, dtypes = 0, set()
    average = engine.optimizer.average_tensor

    def counted(tensor: Any, dtype: Any) -> None:
        nonlocal elements
        elements += tensor.numel()
        dtypes.add(str(tensor.dtype))
        average(tensor, dtype)

    engine.optimizer.average_tensor = counted
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    dist.barrier()
    return elements, dtypes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_once_sends_each_gradient_once(precision: str) -> None:
    once, every = (build_plan(_strategy(2, reduce, precision)) for reduce in WAYS)
    few, many = (kept(4).run(_reduced_elements, plan) for plan in (once, every))
    for (elements, dtypes), (more, _) in zip(few, many, strict=True):
        assert more == once.batch.accumulation * elements > 0
        assert dtypes == {"torch.float32" if precision == "fp32" else "torch.bfloat16"}


def _sum_of_small_and_large(plan: Plan) -> list[float]:
    """The first element of a gradient after micro-batches that add 256, 1, 1 and 1, as DeepSpeed gets it."""
    engine, _ = start(plan)
    parameter = dict(engine.module.named_parameters())["model.model.norm.weight"]
    found: list[float] = []
    engine.optimizer.process_gradients.__self__._reduce_parameter = lambda p, group: found.append(
        float(p.grad.reshape(-1)[0])
    )
    for step, value in enumerate((256.0, 1.0, 1.0, 2.0)):
        engine.micro_steps = step
        parameter.grad = parameter.detach().new_full(parameter.shape, value)
        engine.optimizer.process_gradients(parameter, 0)
    return found


def test_bf16_gradients_are_summed_in_fp32() -> None:
    """256 + 1 is 256 in bf16, so that a sum in bf16 would end at 258."""
    plan = build_plan(_strategy(2, "once", "bf16"))
    assert kept(4).run(_sum_of_small_and_large, plan) == [[260.0]] * 4
