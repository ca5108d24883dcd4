"""Report of scaling questions and of layouts for the hosts that remain after a loss."""

from typing import Any

from planner.plan.memory_limit import describe_memory_limit
from planner.report.memory_report import rank_dict
from planner.report.tables import Table
from planner.search.fallback import AfterLoss, ScalingOption
from planner.search.search import SearchRow
from planner.units import format_bytes, format_seconds, plural


def scaling_table(options: tuple[ScalingOption, ...]) -> Table:
    """One row for each question and placement."""
    rows = tuple(
        (
            option.question,
            option.parallel.placement,
            str(option.gpus),
            "yes" if option.is_possible else "no",
            "-" if option.memory is None else format_bytes(option.memory.peak_bytes),
            _seconds(option.step_s),
            _rate(option.tokens_per_s),
            str(option.spares) if option.spares >= 0 else f"{-option.spares} missing",
            option.why_not or "",
        )
        for option in options
    )
    columns = ("question", "placement", "GPUs", "runs", "memory", "step", "tokens/s", "spares", "why not")
    return Table(
        title="Scaling questions and fallbacks",
        columns=columns,
        rows=rows,
        numeric=frozenset({"GPUs", "memory", "step", "tokens/s", "spares"}),
        below=("why not",),
    )


def loss_lines(left: AfterLoss) -> tuple[str, ...]:
    """What was lost, what remains, how a host that lost some of its GPUs is used."""
    cluster = left.strategy.cluster
    host = cluster.hosts.names[-1]
    lines = [
        f"{left.strategy.name} after the loss of {left.lost}: {plural(left.num_gpus, 'GPU')} on "
        f"{plural(left.num_hosts, 'host')}; global batch {left.strategy.training.global_batch} is kept",
        f"memory of a rank: at most {describe_memory_limit(left.strategy)}",
    ]
    if left.kept == "last":
        lines.append(f"the host with {plural(cluster.slots[-1], 'remaining GPU')} is listed last, as {host}")
    elif left.kept == "dropped":
        lines.append("the host that lost some of its GPUs is left out: using it does not allow more ranks")
    return tuple(lines)


def loss_table(left: AfterLoss, num_rows: int) -> Table:
    """The fastest layouts, each with the batch that it makes of the same sequences."""
    rows = tuple(
        (
            row.strategy.parallel.short_name,
            row.strategy.parallel.placement,
            str(row.gpus),
            f"{row.strategy.training.micro_batch} × {row.plan.batch.accumulation} × {_width(row)}",
            str(row.strategy.parallel.zero_stage),
            row.strategy.runtime.recompute,
            format_bytes(row.peak_bytes),
            _seconds(row.step_s),
            _rate(row.tokens_per_s),
            str(left.num_gpus - row.gpus),
        )
        for row in left.rows[:num_rows]
    )
    columns = (
        *("layout", "placement", "GPUs", "micro-batch × accumulation × data", "ZeRO", "recompute"),
        *("memory", "step", "tokens/s", "spares"),
    )
    return Table(
        title=f"What to run ({min(num_rows, len(left.rows))} of {len(left.rows)} layouts, the fastest first)",
        columns=columns,
        rows=rows,
        numeric=frozenset({"GPUs", "ZeRO", "memory", "step", "tokens/s", "spares"}),
        optional=("recompute", "ZeRO", "step"),
    )


def _width(row: SearchRow) -> int:
    batch = row.plan.batch
    return batch.global_batch // batch.micro_batch // batch.accumulation


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def option_dict(option: ScalingOption) -> dict[str, Any]:
    """A question for machines."""
    return {
        "question": option.question,
        "placement": option.parallel.placement,
        "degrees": option.parallel.short_name,
        "gpus": option.gpus,
        "spares": option.spares,
        "is_possible": option.is_possible,
        "why_not": option.why_not,
        "memory": None if option.memory is None else rank_dict(option.memory),
        "step_s": option.step_s,
        "tokens_per_s": option.tokens_per_s,
    }


def loss_dict(left: AfterLoss, num_rows: int) -> dict[str, Any]:
    """What is left, for machines."""
    return {
        "lost": left.lost,
        "memory_limit": describe_memory_limit(left.strategy),
        "gpus": left.num_gpus,
        "hosts": dict(zip(left.strategy.cluster.hosts.names, left.strategy.cluster.slots, strict=True)),
        "partly_lost_host": left.kept,
        "num_layouts": len(left.rows),
        "layouts": [
            {
                "placement": row.strategy.parallel.placement,
                "degrees": row.strategy.parallel.short_name,
                "zero_stage": row.strategy.parallel.zero_stage,
                "gpus": row.gpus,
                "micro_batch": row.strategy.training.micro_batch,
                "accumulation": row.plan.batch.accumulation,
                "recompute": row.strategy.runtime.recompute,
                "peak_bytes": row.peak_bytes,
                "step_s": row.step_s,
                "tokens_per_s": row.tokens_per_s,
            }
            for row in left.rows[:num_rows]
        ],
    }
