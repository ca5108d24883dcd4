"""Search: all legal plans of a model on a cluster, ranked by predicted throughput."""

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from planner.hardware.catalog import Device, device_of
from planner.memory.memory_model import MemoryModel
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction, predict
from planner.problems import StrategyError
from planner.rules.layout import missing_links
from planner.search.all_to_all_choice import with_faster_all_to_all
from planner.search.layer_cuts import lighten_last_stage
from planner.search.recompute_choice import fitting_plan
from planner.search.search_space import Space, layouts, pipeline_degrees, plans_of, space_of
from planner.strategy.changes import change_keys
from planner.strategy.parallel import Parallel
from planner.strategy.schema import Strategy
from planner.timing.time_model import TimeModel
from planner.topology.placement import world_size
from planner.units import milliseconds


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """One plan of a search; `peak_bytes` of its fullest rank."""

    plan: Plan
    step_s: float
    tokens_per_s: float
    gpus: int
    peak_bytes: int
    limit_bytes: int

    @property
    def headroom_bytes(self) -> int:
        return self.limit_bytes - self.peak_bytes

    @property
    def strategy(self) -> Strategy:
        return self.plan.strategy

    @property
    def name(self) -> str:
        parallel = self.strategy.parallel
        return f"{parallel.layout_name} {parallel.placement}"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: rows from the fastest on; `pareto` are those that no other beats in throughput, GPUs
    used and headroom at once. pps: the pipeline degrees tried. limit: what a rank may take, and why.
    lines: what to read first."""

    rows: tuple[SearchRow, ...]
    pareto: tuple[SearchRow, ...]
    num_legal: int
    num_too_large: int
    num_gpus: int
    pps: tuple[int, ...]
    limit: str
    lines: tuple[str, ...]


def search(
    strategy: Strategy,
    device: Device | None = None,
    vary: Sequence[str] = (),
    report: Callable[[int, int], None] | None = None,
) -> Search:
    """Every legal plan that fits the memory. `vary`: also other values of `precision`, `global_batch`.

    A plan that does not fit without recompute has the least that makes it fit; ZeRO 2 is left out where
    DeepSpeed gets it for ZeRO 1 too. Hosts that the strategy keeps as spares may be used. `report` is told
    before each layout how many of how many are done.

    Raises:
        StrategyError: if the cluster has several GPUs and no links.
    """
    problems = tuple(missing_links(strategy, sum(strategy.cluster.slots)))
    if problems:
        raise StrategyError(problems)
    with _garbage_collection_paused():
        return _search(strategy, device or device_of(strategy.cluster.gpu), vary, report)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """A search keeps nearly all that it makes; looking for garbage in it takes a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _search(
    strategy: Strategy,
    device: Device,
    vary: Sequence[str],
    report: Callable[[int, int], None] | None,
) -> Search:
    rows: list[SearchRow] = []
    num_legal, largest = 0, 0
    for varied in _varied(strategy, device, vary):
        space = space_of(varied)
        found = layouts(space)
        largest = max((largest, *(world_size(parallel) for parallel in found)))
        for row in _rows(space, _reported(found, report), device):
            num_legal += 1
            if row is not None:
                rows.append(row)
    rows.sort(key=lambda row: (-row.tokens_per_s, row.gpus, row.strategy.parallel.pp))
    return Search(
        rows=tuple(rows),
        pareto=tuple(pareto_front(rows)),
        num_legal=num_legal,
        num_too_large=num_legal - len(rows),
        num_gpus=space.num_gpus,
        pps=pipeline_degrees(space),
        limit=describe_memory_limit(strategy),
        lines=tuple(_left_out(space, largest)),
    )


def _reported(found: Sequence[Parallel], report: Callable[[int, int], None] | None) -> Iterator[Parallel]:
    for number, parallel in enumerate(found):
        if report is not None:
            report(number, len(found))
        yield parallel


def _rows(space: Space, found: Iterable[Parallel], device: Device) -> Iterator[SearchRow | None]:
    """A row for each ZeRO stage and micro_batch of each layout, with the least recompute that fits the
    memory; None where nothing does. Of a pipeline also one with a light last stage."""
    times, memory, limit = TimeModel(device), MemoryModel(), memory_limit(space.strategy)
    training, given = space.strategy.training, space.strategy.parallel
    written = given.layers_per_stage if given.placement == "colocated" else None
    tokens = training.global_batch * training.seq_length
    for parallel in found:
        for even in plans_of(space, parallel):
            for plan_with in (even, lighten_last_stage(even, times, written)):
                if plan_with is None:
                    continue
                fitting = fitting_plan(plan_with, space.reduces, memory, times, limit)
                if fitting is None:
                    yield None
                    continue
                plan, peak, step_s = fitting
                plan, step_s = with_faster_all_to_all(plan, step_s, times)
                yield SearchRow(
                    plan=plan,
                    step_s=step_s,
                    tokens_per_s=tokens / step_s,
                    gpus=plan.world_size,
                    peak_bytes=peak,
                    limit_bytes=limit,
                )


def why_better(row: SearchRow, base: Prediction, device: Device) -> str:
    """Time saved by a row over a prediction, by phase as the mean over ranks, largest first."""
    other = predict(row.plan, device)
    before, after = base.mean_phases_s, other.mean_phases_s
    gains = sorted(((before[name] - after[name], name) for name in before), reverse=True)
    said = [
        f"{name} {milliseconds(before[name])} → {milliseconds(after[name])} ms"
        for gain, name in gains
        if gain > 0
    ]
    lost = [
        f"{name} {milliseconds(before[name])} → {milliseconds(after[name])} ms"
        for gain, name in gains
        if gain < 0
    ]
    text = f"{base.step_s / other.step_s:.2f} times as fast: " + ", ".join(said[:3])
    return text + (f"; at the cost of {', '.join(lost[-2:])}" if lost else "")


def pareto_front(rows: Sequence[SearchRow]) -> list[SearchRow]:
    """Rows, fastest first, that no faster one matches in GPUs and headroom."""
    front: list[SearchRow] = []
    gpus: list[int] = []  # of the front so far, rising, each with the most headroom of as many GPUs or fewer
    headroom: list[int] = []
    for row in rows:
        i = bisect_right(gpus, row.gpus)
        if i and headroom[i - 1] >= row.headroom_bytes:
            continue
        front.append(row)
        i = bisect_left(gpus, row.gpus)
        end = i
        while end < len(gpus) and headroom[end] <= row.headroom_bytes:
            end += 1
        gpus[i:end], headroom[i:end] = [row.gpus], [row.headroom_bytes]
    return front


def _varied(strategy: Strategy, device: Device, vary: Sequence[str]) -> Iterator[Strategy]:
    precisions = [strategy.training.precision]
    if "precision" in vary:
        precisions += [p for p in ("fp32", "bf16", "fp8") if p in device.peak and p not in precisions]
    batches = [strategy.training.global_batch]
    if "global_batch" in vary:
        batches += [batches[0] * times for times in (2, 4, 8)]
    for precision in precisions:
        for batch in batches:
            yield change_keys(strategy, {"training.precision": precision, "training.global_batch": batch})


def _left_out(space: Space, largest: int) -> Iterator[str]:
    if largest < space.num_gpus:
        model, training = space.strategy.model, space.strategy.training
        yield (
            f"no legal plan uses all {space.num_gpus:,} GPUs, at most {largest:,}: ep must divide "
            f"{model.num_experts} experts, tp the heads, pp is at most {model.num_hidden_layers} layers, and "
            f"the data-parallel size must divide a global batch of {training.global_batch} sequences"
        )
