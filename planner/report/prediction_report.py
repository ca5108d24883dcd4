"""How a prediction reads: tables and lines for people, plain data for machines."""

from collections.abc import Iterator, Sequence
from typing import Any

from planner.plan.plan import Plan
from planner.prediction.breakdown import PHASES, StagePrediction, compute_causes, narrow_links_s
from planner.prediction.limits import LimitCheck, WholeRun
from planner.prediction.predict import Prediction
from planner.report.ledger import ErrorBar
from planner.report.plan_report import Table
from planner.search.search import Search, SearchRow
from planner.timing.layer_time import PassTime
from planner.units import format_bytes, milliseconds

_NAMED_STAGES = 6


def forecast_lines(plan: Plan, p: Prediction, run: WholeRun, bar: ErrorBar | None) -> tuple[str, ...]:
    """What people ask first: how long, how fast, what bounds it, the whole run."""
    return tuple(_lines(plan, p, run, bar))


def _lines(plan: Plan, p: Prediction, run: WholeRun, bar: ErrorBar | None) -> Iterator[str]:
    b = p.bracket
    yield (
        f"a step: {seconds(b.expected_s)}, between {seconds(b.full_overlap_s)} (everything overlaps) and "
        f"{seconds(b.no_overlap_s)} (nothing does); {p.tokens_per_s:,.0f} tokens/s"
    )
    yield f"predicted for: {p.runtime}"
    yield f"error so far: {bar}" if bar else "error so far: unknown, no such run was measured yet"
    yield f"bottleneck: {p.bottleneck}"
    yield (
        f"MFU {p.mfu:.1%} (model FLOPs), {p.hfu:.1%} of the peak with what is computed twice; "
        f"utilization {p.utilization:.1%}, communication {p.communication_share:.1%}, balance "
        f"{p.balance:.2f} (assumed)"
    )
    if len(plan.stages) > 1:
        micro = plan.batch.accumulation
        yield (
            f"pipeline: {micro} micro-batch{'es' if micro > 1 else ''} over {len(plan.stages)} stages; "
            f"ranks wait {p.bubble_share:.1%} of a step for other stages"
            + (f" ({_bubbles(p)})" if len(plan.stages) <= _NAMED_STAGES else "")
        )
        narrow = [stage for stage in p.stages if stage.num_ranks < max(s.num_ranks for s in p.stages)]
        if narrow:
            links = narrow_links_s(plan, p.stages)
            said = ", ".join(
                f"of the {stage.num_ranks} {stage.name} ranks {seconds(links[stage.name])}"
                for stage in narrow
            )
            yield f"links at work in the stages with fewer ranks, of {seconds(p.step_s)} a step: {said}"
    yield f"one forward pass of the global batch: {seconds(p.forward_latency_s)}"
    epochs = "epochs unknown" if run.epochs is None else f"{run.epochs:.2f} epochs"
    yield (
        f"the whole run: {run.tokens:,} tokens ({epochs}), "
        f"{run.days:.3g} days, {run.gpu_hours:,.3g} GPU-hours; a checkpoint holds "
        f"{format_bytes(run.checkpoint_bytes)}"
    )


def _bubbles(p: Prediction) -> str:
    return ", ".join(f"{stage.name} {stage.phases.bubble_s / p.step_s:.0%}" for stage in p.stages)


def phase_table(p: Prediction) -> Table:
    """A step of each stage, in milliseconds; waiting for other stages is parted from handing over."""
    columns = ["stage", "ranks"]
    names = [name for name in PHASES if any(s.phases.phases_s[name] for s in p.stages)]
    for name in names:
        columns += ["transfer", "bubble"] if name == "stage_wait" else [name]
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
    """What the busiest stage computes, by cause, and what crosses its links."""
    stage, accumulation = p.busiest, plan.batch.accumulation
    rows = [
        (cause, milliseconds(s), f"{s / p.step_s:.1%}") for cause, s in compute_causes(stage, accumulation)
    ]
    if stage.time.micro_batch.all_to_all_bytes:
        sent = f"{stage.time.micro_batch.all_to_all_bytes:,.0f} bytes one way and layer"
        total = accumulation * (stage.time.forward.all_to_all_s + stage.time.backward.all_to_all_s)
        rows.append((f"all-to-all: {sent}", milliseconds(total), f"{total / p.step_s:.1%}"))
    return Table(
        title=f"By cause, stage {stage.name}" if len(p.stages) > 1 else "By cause",
        columns=("cause", "ms", "of the step"),
        rows=tuple(row for row in rows if row[1] != "0"),
        numeric=frozenset({"ms", "of the step"}),
    )


def limit_table(checks: tuple[LimitCheck, ...]) -> Table:
    """Each limit beside what is expected."""
    rows = tuple(
        (
            check.name,
            check.limit,
            check.expected,
            ("holds" if check.holds else "does not hold")
            + (f", of its stages {check.stage} is the worst" if check.stage else ""),
        )
        for check in checks
    )
    return Table(
        title="Limits",
        columns=("limit", "is", "expected", ""),
        rows=rows,
        numeric=frozenset({"is", "expected"}),
    )


def limit_notes(checks: tuple[LimitCheck, ...]) -> tuple[str, ...]:
    """What would have to change; limits that ask for the same share a line."""
    by_change: dict[str, list[str]] = {}
    for check in checks:
        if check.change:
            by_change.setdefault(check.change, []).append(check.name)
    return tuple(f"{', '.join(names)}: {change}" for change, names in by_change.items())


def prediction_dict(
    plan: Plan, p: Prediction, run: WholeRun, checks: tuple[LimitCheck, ...], bar: ErrorBar | None
) -> dict[str, Any]:
    """The same for machines; seconds, bytes, shares."""
    return {
        "step_s": {
            "ideal": p.bracket.full_overlap_s,
            "expected": p.bracket.expected_s,
            "none": p.bracket.no_overlap_s,
        },
        "runtime": p.runtime,
        "tokens_per_s": p.tokens_per_s,
        "mfu": p.mfu,
        "executed": p.hfu,
        "utilization": p.utilization,
        "communication_share": p.communication_share,
        "bubble_share": p.bubble_share,
        "balance": p.balance,
        "forward_latency_s": p.forward_latency_s,
        "phases_s": dict(p.phases_s),
        "bottleneck": p.bottleneck,
        "stages": [_stage_dict(stage) for stage in p.stages],
        "run": {
            "tokens": run.tokens,
            "epochs": run.epochs,
            "days": run.days,
            "gpu_hours": run.gpu_hours,
            "checkpoint_bytes": run.checkpoint_bytes,
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


_SEARCH_COLUMNS = (
    "#",
    "layout",
    "placement",
    "GPUs",
    "ZeRO",
    "micro",
    "accum",
    "recompute",
    "step",
    "tokens/s",
)


def search_table(title: str, rows: Sequence[SearchRow], found: Search) -> Table:
    """Rows of a search; `#`, their place in it, is what --write takes."""
    places = {id(row): place for place, row in enumerate(found.rows, start=1)}
    columns = (*_SEARCH_COLUMNS, "per GPU", "peak", "headroom")
    cells = []
    for row in rows:
        plan, parallel = row.plan, row.strategy.parallel
        cells.append(
            (
                str(places[id(row)]),
                parallel.short_name,
                parallel.placement,
                str(row.gpus),
                str(parallel.zero_stage),
                str(row.strategy.training.micro_batch),
                str(plan.batch.accumulation),
                row.strategy.runtime.recompute,
                seconds(row.step_s),
                f"{row.tokens_per_s:,.0f}",
                f"{row.tokens_per_s / row.gpus:,.0f}",
                format_bytes(row.peak_bytes),
                format_bytes(row.headroom_bytes),
            )
        )
    return Table(
        title=title,
        columns=columns,
        rows=tuple(cells),
        numeric=frozenset(columns) - {"layout", "placement", "recompute"},
    )


def search_dict(found: Search, num_rows: int) -> dict[str, Any]:
    """For machines: the first rows and the front."""
    return {
        "gpus": found.num_gpus,
        "legal": found.num_legal,
        "too_large": found.num_too_large,
        "lines": list(found.lines),
        "rows": [_row_dict(row) for row in found.rows[:num_rows]],
        "pareto": [_row_dict(row) for row in found.pareto],
    }


def _row_dict(row: SearchRow) -> dict[str, Any]:
    strategy = row.strategy
    return {
        **strategy.parallel.model_dump(),
        "precision": strategy.training.precision,
        "global_batch": strategy.training.global_batch,
        "micro_batch": row.strategy.training.micro_batch,
        "recompute": row.strategy.runtime.recompute,
        "gpus": row.gpus,
        "step_s": row.step_s,
        "tokens_per_s": row.tokens_per_s,
        "peak_bytes": row.peak_bytes,
        "headroom_bytes": row.headroom_bytes,
    }


def seconds(value: float) -> str:
    """Three digits of seconds, milliseconds or microseconds."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"
