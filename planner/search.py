"""All legal plans of a model on a cluster, ranked by predicted throughput, and why the first is the first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.candidates import Space, chosen, layouts, light_plan, space_of
from planner.hardware import Device, device_of
from planner.memory import fullest_ranks
from planner.parts import Parts
from planner.placement import world_size
from planner.plan import Plan
from planner.predict import Prediction, predict
from planner.strategy import Parallel, Strategy
from planner.sweep import SURE_ABOVE, SURE_BELOW, Option, Sweep

_EXACT_ROWS = 200
_PARETO_ROWS = 30  # of the estimated front whose memory is worked out to the byte


@dataclass(frozen=True, kw_only=True)
class Row:
    """One plan of a search; `peak_bytes` of its fullest rank, to the byte where `is_exact`."""

    space: Space
    option: Option
    tokens_per_s: float
    gpus: int
    peak_bytes: int
    limit_bytes: int
    is_exact: bool = False

    @property
    def step_s(self) -> float:
        return self.option.step_s

    @property
    def headroom_bytes(self) -> int:
        return self.limit_bytes - self.peak_bytes

    @property
    def plan(self) -> Plan:
        """Without what only a launch needs; `build_plan(row.strategy)` has it."""
        return light_plan(self.space, self.option.parallel, self.option.micro_batch, self.option.recompute)

    @property
    def strategy(self) -> Strategy:
        option = self.option
        return chosen(self.space, option.parallel, option.micro_batch, option.recompute)

    @property
    def name(self) -> str:
        return f"{self.option.parallel.short_name} {self.option.parallel.placement}"

    @property
    def way(self) -> tuple[object, ...]:
        """What tells it from others but for recompute."""
        option, p, training = self.option, self.option.parallel, self.space.strategy.training
        degrees = (p.placement, p.ep, p.tp, p.pp, p.dp, p.zero_stage, option.micro_batch)
        return (*degrees, training.global_batch, training.precision)

    def exact(self) -> "Row":
        """The same with its memory to the byte."""
        if self.is_exact:
            return self
        peak = max(memory.peak_bytes for memory in fullest_ranks(self.plan))
        return replace(self, peak_bytes=peak, is_exact=True)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: rows from the fastest on; `pareto` are those that no other beats in throughput, GPUs
    used and headroom at once. lines: what to read first."""

    rows: tuple[Row, ...]
    pareto: tuple[Row, ...]
    num_legal: int
    num_too_large: int
    num_gpus: int
    lines: tuple[str, ...]


def search(strategy: Strategy, device: Device | None = None, vary: Sequence[str] = ()) -> Search:
    """Every legal plan that fits the memory. `vary`: also other values of `precision`, `global_batch`.

    Recompute is tried where a plan does not fit without it; ZeRO 2 is left out where DeepSpeed gets it for
    ZeRO 1 too. Hosts that the strategy keeps as spares may be used.
    """
    device = device or device_of(strategy.cluster.gpu)
    rows: list[Row] = []
    num_ways, largest, all_pp = 0, 0, True
    space = space_of(strategy)
    for varied in _varied(strategy, device, vary):
        space = space_of(varied)
        sweep = Sweep(space, Parts(device))
        found, all_pp = layouts(space)
        for parallel in found:
            largest = max(largest, world_size(parallel))
            for way in _ways(sweep, parallel):
                num_ways += 1
                rows += way
    rows.sort(key=lambda row: (-row.tokens_per_s, row.gpus, row.option.parallel.pp))
    rows = _that_fit(rows)
    front = [row.exact() for row in _front(rows)[:_PARETO_ROWS]]
    return Search(
        rows=tuple(rows),
        pareto=tuple(row for row in front if row.headroom_bytes >= 0),
        num_legal=num_ways,
        num_too_large=num_ways - len({row.way for row in rows}),
        num_gpus=space.num_gpus,
        lines=tuple(_unused(space, largest, all_pp)),
    )


def _ways(sweep: Sweep, parallel: Parallel) -> Iterator[tuple[Row, ...]]:
    """Each ZeRO stage and micro_batch of a layout, without and perhaps with recompute; those that may fit."""
    limit, training = sweep.limit_bytes, sweep.space.strategy.training
    gpus, tokens = world_size(parallel), training.global_batch * training.seq_length
    ways: dict[tuple[int, int], list[Row]] = {}
    for option in sweep.options(parallel):
        way = ways.setdefault((option.micro_batch, option.parallel.zero_stage), [])
        if option.peak_bytes < SURE_ABOVE * limit:
            way.append(
                Row(
                    space=sweep.space,
                    option=option,
                    tokens_per_s=tokens / option.step_s,
                    gpus=gpus,
                    peak_bytes=option.peak_bytes,
                    limit_bytes=limit,
                )
            )
    return (tuple(way) for way in ways.values())


def _that_fit(rows: Sequence[Row]) -> list[Row]:
    """Of each way to run a layout the faster one that fits; rows come fastest first, and go so.

    Near the limit memory is worked out to the byte for the fastest rows, and estimated for the others.
    """
    kept: list[Row] = []
    num_exact = 0
    served: set[tuple[object, ...]] = set()
    for row in rows:
        if row.peak_bytes > SURE_BELOW * row.limit_bytes:
            if num_exact < _EXACT_ROWS:
                row, num_exact = row.exact(), num_exact + 1
            if row.headroom_bytes < 0:
                continue
            if row.way in served:
                continue
            served.add(row.way)
        kept.append(row)
    return kept


def why_better(row: Row, base: Prediction, device: Device) -> str:
    """What a row gains against a prediction, by phase as the mean over ranks, largest first."""
    other = predict(row.plan, device)
    before, after = base.mean_phases_s, other.mean_phases_s
    gains = sorted(((before[name] - after[name], name) for name in before), reverse=True)
    said = [
        f"{name} {before[name] * 1e3:.3g} → {after[name] * 1e3:.3g} ms" for gain, name in gains if gain > 0
    ]
    lost = [
        f"{name} {before[name] * 1e3:.3g} → {after[name] * 1e3:.3g} ms" for gain, name in gains if gain < 0
    ]
    text = f"{base.step_s / other.step_s:.2f} times as fast: " + ", ".join(said[:3])
    return text + (f"; it pays with {', '.join(lost[-2:])}" if lost else "")


def _front(rows: Sequence[Row]) -> list[Row]:
    """Rows, fastest first, that no faster one matches in GPUs and headroom."""
    front: list[Row] = []
    for row in rows:
        if not any(f.gpus <= row.gpus and f.headroom_bytes >= row.headroom_bytes for f in front):
            front.append(row)
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
            training = strategy.training.model_copy(update={"precision": precision, "global_batch": batch})
            yield strategy.model_copy(update={"training": training})


def _unused(space: Space, largest: int, all_pp: bool) -> Iterator[str]:
    if largest < space.num_gpus:
        model, training = space.strategy.model, space.strategy.training
        yield (
            f"no legal plan uses all {space.num_gpus:,} GPUs, at most {largest:,}: ep divides "
            f"{model.num_experts} experts, tp the heads, pp has {model.num_hidden_layers} layers to cut, and "
            f"the data-parallel size divides a global batch of {training.global_batch} sequences"
        )
    if not all_pp:
        yield f"pp is taken from the divisors of {space.strategy.model.num_hidden_layers} layers only"
