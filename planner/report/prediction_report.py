"""Report of a prediction: lines and tables for people, plain data for machines."""

from collections.abc import Iterator
from typing import Any

from planner.plan.plan import Plan
from planner.prediction.breakdown import PHASES, StagePrediction, compute_causes, narrow_links_s
from planner.prediction.limits import LimitCheck
from planner.prediction.predict import Prediction
from planner.prediction.roofline import Roofline, roofline
from planner.prediction.run_forecast import RunForecast, run_assumptions
from planner.report.key_figures import failures_dict, key_figures_dict
from planner.report.ledger import ErrorBar
from planner.report.tables import Table
from planner.timing.layer_time import PassTime
from planner.units import format_seconds, milliseconds

_NAMED_STAGES = 6


def forecast_lines(plan: Plan, p: Prediction, bar: ErrorBar | None) -> tuple[str, ...]:
    """Step time, its schedule and error, bottleneck, pipeline."""
    return tuple(_lines(plan, p, bar))


def _lines(plan: Plan, p: Prediction, bar: ErrorBar | None) -> Iterator[str]:
    b = p.bracket
    step, full, none = map(format_seconds, (b.expected_s, b.full_overlap_s, b.no_overlap_s))
    yield f"step time: {step} (full overlap {full}, no overlap {none}); {p.tokens_per_s:,.0f} tokens/s"
    bound = roofline(plan, p.device, p.imbalance)
    yield (
        f"with {plan.strategy.runtime.kernels} kernels; no runtime of this layout beats "
        f"{format_seconds(bound.step_s)} ({bound.bound_by} at their peak)"
    )
    yield f"schedule: {p.runtime}"
    unknown = "unknown (no run measured on this hardware yet)"
    yield f"prediction error: {bar or unknown}"
    yield f"bottleneck: {p.bottleneck}"
    yield (
        f"utilization {p.utilization:.1%}, communication {p.communication_share:.1%}, balance "
        f"{p.balance:.2f} ({p.balance_is}); HFU counts recomputation, MFU does not"
    )
    if len(plan.stages) > 1:
        micro = plan.batch.accumulation
        yield (
            f"pipeline: {micro} micro-batch{'es' if micro > 1 else ''} over {len(plan.stages)} stages; "
            f"bubble {p.bubble_share:.1%} of a step"
            + (f" ({_bubbles(p)})" if len(plan.stages) <= _NAMED_STAGES else "")
        )
        narrow = [stage for stage in p.stages if stage.num_ranks < max(s.num_ranks for s in p.stages)]
        if narrow:
            links = narrow_links_s(plan, p.stages)
            said = ", ".join(
                f"{stage.num_ranks} {stage.name} ranks {format_seconds(links[stage.name])}"
                for stage in narrow
            )
            yield f"busy links of the narrower stages, of {format_seconds(p.step_s)} per step: {said}"
    yield f"forward pass of the global batch: {format_seconds(p.forward_latency_s)}"


def _bubbles(p: Prediction) -> str:
    return ", ".join(f"{stage.name} {stage.phases.bubble_s / p.step_s:.0%}" for stage in p.stages)


def phase_table(p: Prediction) -> Table:
    """A step of each stage, in milliseconds; stage_wait is split into P2P transfers and bubble."""
    columns = ["stage", "ranks"]
    names = [name for name in PHASES if any(s.phases.phases_s[name] for s in p.stages)]
    for name in names:
        columns += ["P2P", "bubble"] if name == "stage_wait" else [name]
    columns += ["step", "utilization", "communication"]
    rows = []
    for stage in p.stages:
        row = [stage.name, str(stage.num_ranks)]
        for name in names:
            phases = stage.phases
            found = (phases.transfer_s, phases.bubble_s) if name == "stage_wait" else (phases.phases_s[name],)
            row += [milliseconds(value) for value in found]
        row += [milliseconds(p.step_s), f"{stage.utilization:.1%}", f"{stage.communication_share:.1%}"]
        rows.append(tuple(row))
    return Table(title="A step, ms", columns=tuple(columns), rows=tuple(rows), numeric=frozenset(columns[1:]))


def cause_table(plan: Plan, p: Prediction) -> Table:
    """Compute of the busiest stage by cause, and its all-to-all."""
    stage, accumulation = p.busiest, plan.batch.accumulation
    rows = [
        (cause, milliseconds(s), f"{s / p.step_s:.1%}") for cause, s in compute_causes(stage, accumulation)
    ]
    if stage.time.micro_batch.all_to_all_bytes:
        sent = f"{stage.time.micro_batch.all_to_all_bytes:,.0f} bytes per layer and direction"
        total = accumulation * (stage.time.forward.all_to_all_s + stage.time.backward.all_to_all_s)
        rows.append((f"all-to-all: {sent}", milliseconds(total), f"{total / p.step_s:.1%}"))
    return Table(
        title=f"By cause, stage {stage.name}" if len(p.stages) > 1 else "By cause",
        columns=("cause", "ms", "share of step"),
        rows=tuple(row for row in rows if row[1] != "0"),
        numeric=frozenset({"ms", "share of step"}),
    )


def limit_table(checks: tuple[LimitCheck, ...]) -> Table:
    """Each limit beside the predicted value."""
    rows = tuple(
        (
            check.name,
            check.limit,
            check.expected,
            ("met" if check.holds else "not met") + (f" (worst stage: {check.stage})" if check.stage else ""),
        )
        for check in checks
    )
    return Table(
        title="Limits",
        columns=("limit", "allowed", "predicted", ""),
        rows=rows,
        numeric=frozenset({"allowed", "predicted"}),
    )


def limit_notes(checks: tuple[LimitCheck, ...]) -> tuple[str, ...]:
    """Changes that would meet the limits; limits with the same change share a line."""
    by_change: dict[str, list[str]] = {}
    for check in checks:
        if check.change:
            by_change.setdefault(check.change, []).append(check.name)
    return tuple(f"{', '.join(names)}: {change}" for change, names in by_change.items())


def prediction_dict(
    plan: Plan, p: Prediction, run: RunForecast, checks: tuple[LimitCheck, ...], bar: ErrorBar | None
) -> dict[str, Any]:
    """The same for machines; seconds, bytes, shares."""
    return {
        "figures": key_figures_dict(plan, p),
        "step_s": {
            "full_overlap": p.bracket.full_overlap_s,
            "expected": p.bracket.expected_s,
            "no_overlap": p.bracket.no_overlap_s,
        },
        "runtime": p.runtime,
        "roofline_s": _roofline_dict(roofline(plan, p.device, p.imbalance)),
        "tokens_per_s": p.tokens_per_s,
        "mfu": p.mfu,
        "hfu": p.hfu,
        "utilization": p.utilization,
        "communication_share": p.communication_share,
        "bubble_share": p.bubble_share,
        "balance": p.balance,
        "forward_latency_s": p.forward_latency_s,
        "phases_s": dict(p.phases_s),
        "bottleneck": p.bottleneck,
        "stages": [_stage_dict(stage) for stage in p.stages],
        "run": {
            "steps": run.steps,
            "tokens": run.tokens,
            "epochs": run.epochs,
            "days": run.days,
            "gpu_hours": run.gpu_hours,
            "cost": run.cost,
            "checkpoint_bytes": run.checkpoint_bytes,
            "checkpoint_s": run.checkpoint_s,
            "checkpoint_stall_s": run.stall_s,
            "checkpoint_share": run.checkpoint_share,
            "failures": failures_dict(run.failures),
            "assumptions": list(run_assumptions(plan, run)),
        },
        "limits": [
            {
                "name": check.name,
                "limit": check.limit,
                "expected": check.expected,
                "stage": check.stage,
                "holds": check.holds,
                "change": check.change,
            }
            for check in checks
        ],
        "error_bar": None
        if bar is None
        else {"runs": bar.num_runs, "median": bar.median, "largest": bar.largest},
        "assumptions": list(p.assumptions),
    }


def _roofline_dict(bound: Roofline) -> dict[str, float | None]:
    return {
        "step": bound.step_s,
        "gemms": bound.compute_s,
        "memory": bound.memory_s,
        "links": bound.links_s,
    }


def _stage_dict(stage: StagePrediction) -> dict[str, Any]:
    return {
        "name": stage.name,
        "ranks": stage.num_ranks,
        "phases_s": dict(stage.phases.phases_s),
        "transfer_s": stage.phases.transfer_s,
        "bubble_s": stage.phases.bubble_s,
        "utilization": stage.utilization,
        "communication_share": stage.communication_share,
        "all_to_all_bytes": stage.time.micro_batch.all_to_all_bytes,
        "micro_batch": {
            "forward": _pass_dict(stage.time.forward),
            "backward": _pass_dict(stage.time.backward),
        },
    }


def _pass_dict(one: PassTime) -> dict[str, Any]:
    return {
        "compute_s": one.compute_s,
        "all_to_all_s": one.all_to_all_s,
        "tensor_parallel_s": one.tensor_parallel_s,
        "causes_s": dict(one.causes),
    }
