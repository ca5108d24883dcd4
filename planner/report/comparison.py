"""Comparison of two plans: derived and predicted quantities, their ratio, the keys that differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from planner.counts.parameters import model_parameters
from planner.memory.fit import fits, fullest_rank
from planner.plan.ds_config import zero_stage
from planner.plan.memory_limit import memory_limit
from planner.plan.mismatch import compare_keys
from planner.plan.plan import Plan
from planner.prediction.breakdown import PHASES
from planner.prediction.limits import LimitCheck
from planner.prediction.predict import Prediction
from planner.prediction.run_forecast import RunForecast
from planner.report.tables import Table
from planner.units import format_bytes, format_number, format_seconds, milliseconds


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: a plan and what is foreseen for it; `file` is what it was read from."""

    file: str
    plan: Plan
    prediction: Prediction
    run: RunForecast
    limits: tuple[LimitCheck, ...]

    @property
    def peak_bytes(self) -> int:
        return fullest_rank(self.plan, self.prediction.imbalance).peak_bytes

    @property
    def fits(self) -> bool:
        return fits(self.plan, self.prediction.imbalance)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of either side in base units, how it reads, and whether B / A says something."""

    name: str
    of: Callable[[Side], float]
    show: Callable[[float], str]
    has_ratio: bool = True


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _bytes(value: float) -> str:
    return format_bytes(round(value))


QUANTITIES = (
    Quantity(name="ranks", of=lambda s: s.plan.world_size, show=_count),
    Quantity(name="hosts used", of=lambda s: len(s.plan.hosts), show=_count),
    Quantity(name="parameters", of=lambda s: model_parameters(s.plan.strategy.model).total, show=_count),
    Quantity(
        name="active for a token", of=lambda s: model_parameters(s.plan.strategy.model).active, show=_count
    ),
    Quantity(name="tokens per step", of=lambda s: s.prediction.tokens_per_step, show=_count),
    Quantity(name="micro_batch", of=lambda s: s.plan.batch.micro_batch, show=_count),
    Quantity(name="accumulation", of=lambda s: s.plan.batch.accumulation, show=_count),
    Quantity(name="memory of the fullest rank", of=lambda s: s.peak_bytes, show=_bytes),
    Quantity(
        name="memory free",
        of=lambda s: 1 - s.peak_bytes / memory_limit(s.plan.strategy),
        show=_share,
        has_ratio=False,
    ),
    Quantity(name="step time", of=lambda s: s.prediction.bracket.expected_s, show=format_seconds),
    Quantity(name="  full overlap", of=lambda s: s.prediction.bracket.full_overlap_s, show=format_seconds),
    Quantity(name="  no overlap", of=lambda s: s.prediction.bracket.no_overlap_s, show=format_seconds),
    Quantity(name="tokens/s", of=lambda s: s.prediction.tokens_per_s, show=_count),
    Quantity(
        name="tokens/s per rank", of=lambda s: s.prediction.tokens_per_s / s.plan.world_size, show=_count
    ),
    Quantity(name="MFU", of=lambda s: s.prediction.mfu, show=_share),
    Quantity(name="HFU", of=lambda s: s.prediction.hfu, show=_share),
    Quantity(name="utilization", of=lambda s: s.prediction.utilization, show=_share),
    Quantity(name="communication share", of=lambda s: s.prediction.communication_share, show=_share),
    Quantity(name="bubble share", of=lambda s: s.prediction.bubble_share, show=_share, has_ratio=False),
    Quantity(name="forward pass", of=lambda s: s.prediction.forward_latency_s, show=format_seconds),
    Quantity(name="run time", of=lambda s: s.run.seconds, show=format_seconds),
    Quantity(name="run, GPU-hours", of=lambda s: s.run.gpu_hours, show=format_number),
    Quantity(name="checkpoint", of=lambda s: s.run.checkpoint_bytes, show=_bytes),
)


def heading(a: Side, b: Side) -> tuple[str, ...]:
    """The faster plan, and each one's bottleneck."""
    faster = a.prediction.tokens_per_s / b.prediction.tokens_per_s
    names = ("A", "B") if faster >= 1 else ("B", "A")
    times = max(faster, 1 / faster)
    verdict = (
        "A and B have the same throughput"
        if times < 1.0005
        else f"{names[0]} is {times:.2f} times as fast as {names[1]} in tokens/s"
    )
    lines = [verdict]
    for letter, side in (("A", a), ("B", b)):
        lines.append(f"{letter}: {side.plan.strategy.name} ({side.file}), plan {side.plan.fingerprint}")
        lines.append(f"   bottleneck: {side.prediction.bottleneck}")
    return tuple(lines)


def quantity_table(a: Side, b: Side) -> Table:
    """Quantities of both plans, with B / A."""
    rows = [(name, *values, "") for name, values in _words(a, b)]
    for quantity in QUANTITIES:
        first, second = quantity.of(a), quantity.of(b)
        ratio = readable_ratio(second / first) if quantity.has_ratio and first else ""
        rows.append((quantity.name, quantity.show(first), quantity.show(second), ratio))
    checks_a, checks_b = ({check.name: check for check in side.limits} for side in (a, b))
    for name in dict.fromkeys((*checks_a, *checks_b)):
        rows.append((f"limit {name}", _verdict(checks_a.get(name)), _verdict(checks_b.get(name)), ""))
    return Table(
        title="Two plans",
        columns=("", "A", "B", "B / A"),
        rows=tuple(rows),
        numeric=frozenset({"A", "B", "B / A"}),
    )


def readable_ratio(value: float) -> str:
    """B / A for people: 0.85, 12,000, 1 / 12,000."""
    if 0 < value < 0.01:
        return f"1 / {1 / value:,.0f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _words(a: Side, b: Side) -> Iterator[tuple[str, tuple[str, str]]]:
    yield "layout", _both(a, b, lambda s: s.plan.strategy.parallel.layout_name)
    yield "placement", _both(a, b, lambda s: s.plan.strategy.parallel.placement)
    yield "precision", _both(a, b, lambda s: s.plan.strategy.training.precision)
    yield "ZeRO, as DeepSpeed is given it", _both(a, b, lambda s: str(zero_stage(s.plan)))
    yield "fits the memory", _both(a, b, lambda s: "yes" if s.fits else "no")


def _both(a: Side, b: Side, of: Callable[[Side], str]) -> tuple[str, str]:
    return of(a), of(b)


def _verdict(check: LimitCheck | None) -> str:
    if check is None:
        return "not asked"
    return "met" if check.holds else "not met"


def phases_table(a: Side, b: Side) -> Table:
    """A step of each by phase, as the mean over ranks, in milliseconds."""
    rows = []
    means_a, means_b = a.prediction.mean_phases_s, b.prediction.mean_phases_s
    for name in PHASES:
        first, second = means_a[name], means_b[name]
        if first or second:
            rows.append((name, milliseconds(first), milliseconds(second), milliseconds(second - first, "+")))
    columns = ("phase", "A", "B", "B - A")
    return Table(
        title="A step, mean over ranks, ms",
        columns=columns,
        rows=tuple(rows),
        numeric=frozenset(columns[1:]),
    )


def keys_table(a: Side, b: Side) -> Table:
    """The keys in which the two strategies differ, of those that make a plan."""
    rows = tuple(compare_keys(a.plan.strategy, b.plan.strategy))
    return Table(title="Keys that differ", columns=("key", "A", "B"), rows=rows)


def comparison_dict(a: Side, b: Side) -> dict[str, Any]:
    """What the tables hold, for machines: base units (bytes, seconds, shares of 1)."""
    return {
        "quantities": [
            {"name": quantity.name.strip(), "a": quantity.of(a), "b": quantity.of(b)}
            for quantity in QUANTITIES
        ],
        "fits": {"a": a.fits, "b": b.fits},
        "differing_keys": [
            {"key": key, "a": first, "b": second}
            for key, first, second in compare_keys(a.plan.strategy, b.plan.strategy)
        ],
    }
