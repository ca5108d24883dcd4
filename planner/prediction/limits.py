"""Limit checks: which of `limits:` a prediction meets, and the cheapest change that would meet the others."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from planner.build import build_plan
from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import Device
from planner.memory.fit import fits, fullest_rank
from planner.plan.memory_limit import memory_limit
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction, predict
from planner.prediction.sensitivity import with_links
from planner.problems import StrategyError
from planner.strategy.changes import change_keys
from planner.strategy.recompute import Recompute
from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size
from planner.units import format_bytes, format_rate

_UNLIMITED = 1e6  # times as fast as the strategy's links


@dataclass(frozen=True, kw_only=True)
class LimitCheck:
    """One limit of the strategy beside the predicted value; `change`: what would meet it. stage: the worst of
    several, whose value it is."""

    name: str
    limit: str
    expected: str
    holds: bool
    change: str
    stage: str | None = None


def limit_checks(plan: Plan, prediction: Prediction) -> tuple[LimitCheck, ...]:
    """Memory, and those of `limits:` that are written; utilization and communication are those of the worst
    stage."""
    return tuple(_checks(plan, prediction))


def _checks(plan: Plan, prediction: Prediction) -> Iterator[LimitCheck]:
    limits, device, imbalance = plan.strategy.limits, prediction.device, prediction.imbalance
    stages = prediction.stages if len(prediction.stages) > 1 else ()
    if limits.communication_share_max is not None:
        holds = _communicates_less(plan, prediction)
        yield LimitCheck(
            name="communication_share_max",
            limit=f"{limits.communication_share_max:.1%}",
            expected=f"{_worst_communication(prediction):.1%}",
            stage=max(stages, key=lambda s: s.communication_share).name if stages else None,
            holds=holds,
            change="" if holds else _what_keeps(plan, device, imbalance, _communicates_less),
        )
    if limits.utilization_min is not None:
        holds = _is_busy(plan, prediction)
        yield LimitCheck(
            name="utilization_min",
            limit=f"{limits.utilization_min:.1%}",
            expected=f"{_worst_utilization(prediction):.1%}",
            stage=min(stages, key=lambda s: s.utilization).name if stages else None,
            holds=holds,
            change="" if holds else _what_keeps(plan, device, imbalance, _is_busy),
        )
    yield _memory_check(plan, imbalance)
    if limits.balance_min is not None:
        holds = prediction.balance >= limits.balance_min
        yield LimitCheck(
            name="balance_min",
            limit=f"{limits.balance_min:.2f}",
            expected=f"{prediction.balance:.2f} ({prediction.balance_is})",
            holds=holds,
            change="" if holds else "a larger training.balance_loss, or training.balance: bias",
        )


def _memory_check(plan: Plan, imbalance: ExpertImbalance) -> LimitCheck:
    most, limit = fullest_rank(plan, imbalance).peak_bytes, memory_limit(plan.strategy)
    change = "more ranks, a smaller micro_batch, a higher ZeRO stage, or recompute (see `search`)"
    return LimitCheck(
        name="memory_max",
        limit=format_bytes(limit),
        expected=format_bytes(most),
        holds=most <= limit,
        change="" if most <= limit else change,
    )


Keeps = Callable[[Plan, Prediction], bool]


def _communicates_less(plan: Plan, prediction: Prediction) -> bool:
    most = plan.strategy.limits.communication_share_max
    return most is None or _worst_communication(prediction) <= most


def _is_busy(plan: Plan, prediction: Prediction) -> bool:
    least = plan.strategy.limits.utilization_min
    return least is None or _worst_utilization(prediction) >= least


def _worst_communication(prediction: Prediction) -> float:
    return max(stage.communication_share for stage in prediction.stages)


def _worst_utilization(prediction: Prediction) -> float:
    return min(stage.utilization for stage in prediction.stages)


def _what_keeps(plan: Plan, device: Device, imbalance: ExpertImbalance, keeps: Keeps) -> str:
    """The cheapest change of the strategy that meets a limit, and the links that would."""
    changes = _changes(plan, imbalance)
    found = next((text for text, other in changes if keeps(other, predict(other, device, imbalance))), None)
    cheapest = (
        f"cheapest change: {found}" if found else "none of the layout or runtime changes tried meets it"
    )
    times = _bandwidth_that_keeps(plan, device, imbalance, keeps)
    if times is None:
        best = predict(with_links(plan, _UNLIMITED), _unmeasured(device), imbalance)
        return (
            f"{cheapest}; nor would any bandwidth: with unlimited links communication is "
            f"{_worst_communication(best):.0%} (latencies, copies, waits), utilization "
            f"{_worst_utilization(best):.0%}"
        )
    links = plan.strategy.cluster.links
    inside, between = (format_rate(times * rate) for rate in (links.intra_host, links.inter_host))
    return (
        f"{cheapest}; links {times:,.3g} times as fast ({inside} intra-host, {between} inter-host) "
        "would also meet it"
    )


def _bandwidth_that_keeps(
    plan: Plan, device: Device, imbalance: ExpertImbalance, keeps: Keeps
) -> float | None:
    """By how much both links must be faster, within 1 %; None when no bandwidth is enough."""
    plain = _unmeasured(device)

    def is_enough(times: float) -> bool:
        other = with_links(plan, times)
        return keeps(other, predict(other, plain, imbalance))

    low, high = 1.0, 1.0
    while not is_enough(high):
        low, high = high, high * 4
        if high > _UNLIMITED:
            return None
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _unmeasured(device: Device) -> Device:
    """Without its measured times and links, which do not know other links."""
    return replace(device, collectives=(), intra_bytes_per_s=None, inter_bytes_per_s=None)


def _changes(plan: Plan, imbalance: ExpertImbalance) -> Iterator[tuple[str, Plan]]:
    """Other plans of the same model on the same cluster, as near as can be; what costs least comes first."""
    s = plan.strategy
    widest, batch = largest_data_parallel_size(s.parallel), s.training.global_batch
    powers = [2**i for i in range(1, 11)]
    larger = [m for m in powers if m > s.training.micro_batch and batch % (m * widest) == 0]
    micro = [{"training.micro_batch": m} for m in larger]
    folded = [
        {"parallel.ep": s.parallel.ep // d, "parallel.dp": s.parallel.dp * d}
        for d in powers
        if s.parallel.ep % d == 0
    ]
    candidates: list[Mapping[str, object]] = [
        {"runtime.fp8_payload": True},
        {"runtime.all_to_all": "hierarchical"},
        {"runtime.recompute": Recompute()},
        {"parallel.rank_order": "compact"},
        *micro,
        {"parallel.zero_stage": 1},
        {"parallel.zero_stage": 0},
        {"parallel.tp": 1},
        *folded,
        {"parallel.placement": "colocated"},
        {"parallel.placement": "colocated", "parallel.tp": 1},
        *({"parallel.placement": "colocated", "parallel.tp": 1, **fold} for fold in folded),
        *({"parallel.tp": 1, **fold, "parallel.zero_stage": 1, **more} for fold in folded for more in micro),
    ]
    for change in candidates:
        changed = change_keys(s, change)
        other = _fitting(changed, imbalance) if changed != s else None
        if other is not None:
            yield ", ".join(f"{key}: {_text(value)}" for key, value in change.items()), other


def _fitting(strategy: Strategy, imbalance: ExpertImbalance) -> Plan | None:
    """The plan of a strategy that is legal and fits the memory."""
    try:
        plan = build_plan(strategy)
    except StrategyError:
        return None
    return plan if fits(plan, imbalance) else None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
