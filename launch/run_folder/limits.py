"""Limits of a run: each that its strategy asks for beside what was measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from launch.run_folder.records import RankRecord, StepRecord
from planner import Plan
from planner.plan.memory_limit import memory_limit
from planner.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class LimitReading:
    """measured: None where nothing was. unit: "share" or "bytes"; stage: the worst of several, whose value it
    is."""

    name: str
    limit: float
    measured: float | None
    holds: bool | None
    unit: str
    stage: str | None = None

    def text(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return format_bytes(value) if self.unit == "bytes" else f"{value:.1%}"


def read_limits(
    plan: Plan, steps: Sequence[StepRecord], ranks: Sequence[Mapping[int, RankRecord]]
) -> tuple[LimitReading, ...]:
    """Memory, which always has one, and those of `limits:` that are written, over some last steps.

    Utilization and communication are medians over the steps of the means over a stage's ranks; the worst
    stage's counts, as in a prediction. Memory is the most of any rank, on a CPU only where it is written.
    """
    return tuple(_read(plan, steps, ranks))


def _read(
    plan: Plan, steps: Sequence[StepRecord], ranks: Sequence[Mapping[int, RankRecord]]
) -> Iterator[LimitReading]:
    limits = plan.strategy.limits
    if limits.communication_share_max is not None:
        shares = _by_stage(plan, ranks, lambda record: record.communication_share)
        worst = max(shares, key=lambda name: shares[name], default=None)
        yield _share(
            "communication_share_max", limits.communication_share_max, shares, worst, plan, at_most=True
        )
    if limits.utilization_min is not None:
        shares = _by_stage(plan, ranks, lambda record: record.utilization)
        worst = min(shares, key=lambda name: shares[name], default=None)
        yield _share("utilization_min", limits.utilization_min, shares, worst, plan, at_most=False)
    if limits.memory_max is not None or not plan.strategy.cluster.gpu.is_cpu:
        used = [r.memory_bytes for step in ranks for r in step.values() if r.memory_bytes is not None]
        limit, most = memory_limit(plan.strategy), max(used, default=None)
        yield LimitReading(
            name="memory_max",
            limit=limit,
            measured=most,
            holds=None if most is None else most <= limit,
            unit="bytes",
        )
    if limits.balance_min is not None:
        found = [step.balance for step in steps if step.balance is not None]
        balance = median(found) if found else None
        yield LimitReading(
            name="balance_min",
            limit=limits.balance_min,
            measured=balance,
            holds=None if balance is None else balance >= limits.balance_min,
            unit="share",
        )


def _by_stage(
    plan: Plan, ranks: Sequence[Mapping[int, RankRecord]], value: Callable[[RankRecord], float | None]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in plan.stages:
        means = []
        for step in ranks:
            values = [value(step[rank]) for rank in stage.ranks if rank in step]
            known = [one for one in values if one is not None]
            if known:
                means.append(fmean(known))
        if means:
            found[stage.name] = median(means)
    return found


def _share(
    name: str, limit: float, shares: Mapping[str, float], worst: str | None, plan: Plan, *, at_most: bool
) -> LimitReading:
    measured = None if worst is None else shares[worst]
    holds = None if measured is None else (measured <= limit if at_most else measured >= limit)
    stage = worst if len(plan.stages) > 1 else None
    return LimitReading(name=name, limit=limit, measured=measured, holds=holds, unit="share", stage=stage)
