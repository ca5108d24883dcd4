"""Sensitivity of a prediction: throughput and memory if an assumption or one key were different."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.build import build_plan
from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import Device, MeasuredCollective
from planner.memory.fit import fits, fullest_rank
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction, predict
from planner.problems import StrategyError
from planner.strategy.changes import change_keys


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The plan with one change; tokens_per_s and peak_bytes are None where it is not legal.

    why_not: what keeps it from being used: it is not legal, or does not fit the memory.
    """

    change: str
    tokens_per_s: float | None
    peak_bytes: int | None
    why_not: str = ""


def sensitivity(plan: Plan, prediction: Prediction) -> tuple[Variation, ...]:
    """Links half and twice as fast, twice the peak, balance 0.7 and 0.5, twice the micro-batch; moments in
    bf16, and what overlap of compute and communication would save."""
    return tuple(_variations(plan, prediction))


def _variations(plan: Plan, prediction: Prediction) -> Iterator[Variation]:
    device, imbalance = prediction.device, prediction.imbalance
    if plan.world_size > 1:
        for times, name in ((0.5, "links ½ as fast"), (2.0, "links 2 × as fast")):
            other = with_links(plan, times)
            yield _vary(name, other, _with_measured_links(device, times), imbalance)
    faster = replace(device, peak={key: 2 * value for key, value in device.peak.items()})
    yield _vary("peak 2 × as high", plan, faster, imbalance)
    if plan.strategy.parallel.ep > 1 and plan.strategy.runtime.force_routing is None:
        for balance in (0.7, 0.5):
            if balance < prediction.balance:
                yield _vary(f"balance {balance}", plan, device, ExpertImbalance(factor=1 / balance))
    larger = 2 * plan.strategy.training.micro_batch
    name = f"micro_batch {larger}"
    try:
        other = build_plan(change_keys(plan.strategy, {"training.micro_batch": larger}))
    except StrategyError as error:
        why_not = f"not legal: {error.problems[0].path} {error.problems[0].found}"
        yield Variation(change=name, tokens_per_s=None, peak_bytes=None, why_not=why_not)
    else:
        yield _vary(name, other, device, imbalance)
    if plan.strategy.training.optimizer.moments == "fp32":
        other = build_plan(change_keys(plan.strategy, {"training.optimizer.moments": "bf16"}))
        yield _vary("moments in bf16", other, device, imbalance)
    for key in ("overlap_reduce", "overlap_all_to_all"):
        other = replace(plan, strategy=change_keys(plan.strategy, {f"runtime.{key}": True}))
        one = _vary(key, other, device, imbalance)
        if one.tokens_per_s != prediction.tokens_per_s:
            yield one


def _vary(change: str, plan: Plan, device: Device, imbalance: ExpertImbalance) -> Variation:
    return Variation(
        change=change,
        tokens_per_s=predict(plan, device, imbalance).tokens_per_s,
        peak_bytes=fullest_rank(plan, imbalance).peak_bytes,
        why_not="" if fits(plan, imbalance) else "does not fit",
    )


def with_links(plan: Plan, times: float) -> Plan:
    """The plan on a cluster whose links, those that a host shares too, are so many times as fast."""
    links = plan.strategy.cluster.links
    changes = {
        "cluster.links.intra_host": links.intra_host * times,
        "cluster.links.inter_host": links.inter_host * times,
        **({} if links.per_host is None else {"cluster.links.per_host": links.per_host * times}),
    }
    return replace(plan, strategy=change_keys(plan.strategy, changes))


def _with_measured_links(device: Device, times: float) -> Device:
    """Measured rates replace the strategy's links, so they change with them."""
    inside, between = device.intra_bytes_per_s, device.inter_bytes_per_s
    return replace(
        device,
        intra_bytes_per_s=None if inside is None else inside * times,
        inter_bytes_per_s=None if between is None else between * times,
        collectives=tuple(_scaled(collective, times) for collective in device.collectives),
    )


def _scaled(collective: MeasuredCollective, times: float) -> MeasuredCollective:
    return replace(collective, points=tuple((size, s / times) for size, s in collective.points))
