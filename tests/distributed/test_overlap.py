"""runtime.overlap_reduce: buckets are reduced beside backward, with the bits of reductions after it."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

import planner.plan.ds_config
from model.observers import NO_CLOCK
from planner import Plan, Strategy, build_plan
from runtime.data.rows import Rows
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import run_layout, start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of
from tests.support.settled import check


def _small_buckets() -> None:
    """So that the tiny model fills several; none is smaller than its largest tensor."""
    planner.plan.ds_config.BUCKET_ELEMENTS = 2048


def _strategy(layout: dict[str, Any], overlaps: bool, precision: str = "bf16", **runtime: Any) -> Strategy:
    return tiny(
        parallel={"zero_stage": 2} | layout,
        runtime={"overlap_reduce": overlaps} | runtime,
        training__micro_batch=1,
        training__precision=precision,
    )


LAYOUTS = {
    "ep 4": {"ep": 4},
    "ep 2, dp 2": {"ep": 2, "dp": 2},
    "ep 2, tp 2, dp 2": {"ep": 2, "tp": 2, "dp": 2},
    "ep 2, pp 2": {"ep": 2, "pp": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_bits_are_those_without(layout: dict[str, Any], precision: str) -> None:
    plain, found = (
        run_layout(_strategy(layout, overlaps, precision), before=_small_buckets)
        for overlaps in (False, True)
    )
    assert (found.losses, found.norms) == (plain.losses, plain.norms)
    for step, gradients in enumerate(plain.gradients):
        for name, gradient in gradients.items():
            assert torch.equal(found.gradients[step][name], gradient), (step, name)
    for key, value in plain.final.items():
        assert torch.equal(found.final[key], value), key


def _events(plan: Plan) -> list[tuple[str, str]]:
    """What happens in a step: a gradient is made, an all-reduce starts in a group, or is waited for."""
    engine, groups = start(plan)
    found: list[tuple[str, str]] = []
    plain, process = dist.all_reduce, engine.optimizer.process_gradients

    class Waited:
        def __init__(self, work: dist.Work) -> None:
            self._work = work

        def wait(self) -> None:
            found.append(("wait", ""))
            self._work.wait()

    def reduce(*arguments: Any, **options: Any) -> Any:
        work = plain(*arguments, **options)
        if not options.get("async_op"):
            return work
        found.append(("start", options["group"].group_desc))
        return Waited(work)

    def made(parameter: Any, index: int) -> None:
        found.append(("gradient", ""))
        process(parameter, index)

    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    engine.optimizer.process_gradients, dist.all_reduce = made, reduce
    try:
        train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    finally:
        dist.all_reduce = plain
    dist.barrier()
    return found


def _events_with_small_buckets(plan: Plan) -> list[tuple[str, str]]:
    _small_buckets()
    return _events(plan)


def test_backward_goes_on_while_buckets_travel_in_groups_of_their_own() -> None:
    plan = build_plan(_strategy(LAYOUTS["ep 2, dp 2"], True))
    found = run_ranks(4, _events_with_small_buckets, plan, timeout=120)
    assert found[1:] == found[:-1]  # one order on all ranks
    names = [name for name, _ in found[0]]
    assert names.count("start") == names.count("wait") > 4
    assert {group for name, group in found[0] if name == "start"} == {"gradients"}
    between, travelling = [], 0
    for name in names:
        travelling += {"start": 1, "wait": -1}.get(name, 0)
        if name == "gradient":
            between.append(travelling)
    # In the last micro-batch gradients are made while the bucket before travels: dense, experts or both.
    assert sum(count > 0 for count in between) > 10
    assert max(between) <= 2


@pytest.mark.parametrize("reduce", ["once", "every_micro_batch"])
def test_it_equals_one_process(reduce: str) -> None:
    check(_strategy(LAYOUTS["ep 2, dp 2"], True, "fp32", reduce=reduce), before=_small_buckets)
