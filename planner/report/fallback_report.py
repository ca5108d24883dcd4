"""Report of scaling questions and of layouts for the hosts that remain after a loss."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from planner.plan.memory_limit import describe_memory_limit
from planner.report.memory_report import rank_dict
from planner.report.tables import Table
from planner.search.continuation import Answer, Continuation, worst
from planner.search.fallback import AfterLoss, ScalingOption
from planner.search.search import SearchRow
from planner.search.trainable import untrainable_keys
from planner.topology.placement import world_size
from planner.units import format_bytes, format_seconds, plural


def scaling_table(options: tuple[ScalingOption, ...]) -> Table:
    """One row for each question and placement."""
    rows = tuple(
        (
            option.question,
            option.parallel.placement,
            str(option.gpus),
            "yes" if option.is_possible else "no",
            _trainable(option.untrainable),
            _micro_batch(option),
            "-" if option.memory is None else format_bytes(option.memory.peak_bytes),
            _seconds(option.step_s),
            _rate(option.tokens_per_s),
            str(option.spares) if option.spares >= 0 else f"{-option.spares} missing",
            option.why_not or "",
        )
        for option in options
    )
    columns = (
        *("question", "placement", "GPUs", "runs", "trainable", "micro", "memory", "step", "tokens/s"),
        *("spares", "why not"),
    )
    return Table(
        title="Scaling questions and fallbacks",
        columns=columns,
        rows=rows,
        numeric=frozenset({"GPUs", "micro", "memory", "step", "tokens/s", "spares"}),
        optional=("step", "micro"),
        below=("why not",),
    )


def _micro_batch(option: ScalingOption) -> str:
    written = f"{option.written_micro_batch} → " if option.is_micro_batch_changed else ""
    return f"{written}{option.micro_batch}"


def _trainable(untrainable: tuple[str, ...]) -> str:
    return "not yet" if untrainable else "yes"


def untrainable_notes(keys: Iterable[str]) -> tuple[str, ...]:
    """What `not yet` means in a table."""
    names = ", ".join(sorted(set(keys)))
    return (f"this version can plan and not yet train the values of {names}",) if names else ()


def missing_keys(left: AfterLoss, num_rows: int) -> tuple[str, ...]:
    """Keys that keep this version from training the first layouts, or the one as written."""
    rows = [left.given, *(row.strategy for row in left.rows[:num_rows])]
    return tuple(key for strategy in rows for key in untrainable_keys(strategy))


_ANSWERS: dict[Answer, str] = {
    "unchanged": "continues, no rank moves",
    "moved": "continues on the spares",
    "regrouped": "continues, other ranks per host",
    "no": "does not continue",
}
_SHOWN_HOSTS = 4


def loss_lines(left: AfterLoss) -> tuple[str, ...]:
    """Whether the layout as written continues, what was lost and where, what remains."""
    cluster = left.strategy.cluster
    host = cluster.hosts.names[-1]
    lines = [
        _first_answer(left),
        f"{left.strategy.name} after the loss of {left.lost}: {plural(left.num_gpus, 'GPU')} on "
        f"{plural(left.num_hosts, 'host')}; global batch {left.strategy.training.global_batch} is kept",
        f"memory of a rank: at most {describe_memory_limit(left.strategy)}",
        f"the layouts below assume the loss on the last hosts: {_lost(left.as_written[0])}",
    ]
    if left.kept == "last":
        lines.append(f"the host with {plural(cluster.slots[-1], 'remaining GPU')} is listed last, as {host}")
    elif left.kept == "dropped":
        lines.append("the host that lost some of its GPUs is left out: using it does not allow more ranks")
    return tuple(lines)


def _first_answer(left: AfterLoss) -> str:
    parallel, found = left.given.parallel, worst(left.as_written)
    ranks = world_size(parallel)
    layout = f"{parallel.layout_name} {parallel.placement} ({plural(ranks, 'rank')})"
    answers = {
        "unchanged": "continues as it is, bit-identical: the loss is of idle GPUs",
        "moved": "continues on the spares, bit-identical: as many ranks on each host, in the same order",
        "regrouped": "continues from its checkpoint, not bit-identical: other ranks share a host",
        "no": f"does not continue: it needs {plural(ranks, 'GPU')}, {found.gpus_left:,} remain",
    }
    if found.answer == "no" and ranks <= found.gpus_left:
        answers["no"] = "does not continue: what remains does not give each host but the last as many ranks"
    is_everywhere = len({each.answer for each in left.as_written}) == 1
    where = "" if is_everywhere else " in the worst case"
    not_yet = "; this version cannot train it yet" if untrainable_keys(left.given) else ""
    return f"{layout}{where} {answers[found.answer]}{not_yet}"


def continuation_table(left: AfterLoss) -> Table:
    """The layout as written, for each place of the loss."""
    rows = tuple(
        (
            each.place,
            _lost(each),
            _ANSWERS[each.answer],
            "-" if each.answer == "no" else "yes" if each.is_bit_identical else "no",
            _ranks_per_host(each),
        )
        for each in left.as_written
    )
    return Table(
        title="This layout, by where the loss is",
        columns=("loss on", "lost", "answer", "bit-identical", "ranks per host"),
        rows=rows,
        below=("lost",),
    )


def _lost(found: Continuation) -> str:
    """GPUs lost on each host, the first hosts by name."""
    shown = [f"{name} ({number})" for name, number in list(found.lost.items())[:_SHOWN_HOSTS]]
    more = len(found.lost) - len(shown)
    return ", ".join(shown) + (f" and {plural(more, 'host')} more" if more else "")


def _ranks_per_host(found: Continuation) -> str:
    """Runs of equal hosts, as in 8 × 8, 1 × 4."""
    runs = [(size, len(list(run))) for size, run in groupby(len(host.ranks) for host in found.hosts)]
    return ", ".join(f"{number} × {size}" for size, number in runs) or "-"


def loss_table(left: AfterLoss, num_rows: int) -> Table:
    """The fastest layouts, each with the batch that it makes of the same sequences."""
    rows = tuple(
        (
            row.strategy.parallel.layout_name,
            row.strategy.parallel.placement,
            str(row.gpus),
            f"{row.strategy.training.micro_batch} × {row.plan.batch.accumulation} × {_width(row)}",
            str(row.strategy.parallel.zero_stage),
            str(row.strategy.runtime.recompute),
            format_bytes(row.peak_bytes),
            _seconds(row.step_s),
            _rate(row.tokens_per_s),
            str(left.num_gpus - row.gpus),
            _trainable(untrainable_keys(row.strategy)),
        )
        for row in left.rows[:num_rows]
    )
    columns = (
        *("layout", "placement", "GPUs", "micro-batch × accumulation × data", "ZeRO", "recompute"),
        *("memory", "step", "tokens/s", "spares", "trainable"),
    )
    is_mixed = len({bool(untrainable_keys(row.strategy)) for row in left.rows}) > 1
    order = "the trainable ones first, each kind from the fastest on" if is_mixed else "the fastest first"
    return Table(
        title=f"What to run ({min(num_rows, len(left.rows))} of {len(left.rows)} layouts, {order})",
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
        "layers_per_stage": option.parallel.layers_per_stage,
        "gpus": option.gpus,
        "spares": option.spares,
        "is_possible": option.is_possible,
        "micro_batch": option.micro_batch,
        "is_micro_batch_changed": option.is_micro_batch_changed,
        "trainable": not option.untrainable,
        "untrainable_keys": list(option.untrainable),
        "why_not": option.why_not,
        "memory": None if option.memory is None else rank_dict(option.memory),
        "step_s": option.step_s,
        "tokens_per_s": option.tokens_per_s,
    }


def loss_dict(left: AfterLoss, num_rows: int) -> dict[str, Any]:
    """What is left, for machines."""
    return {
        "lost": left.lost,
        "as_written": {
            "degrees": left.given.parallel.short_name,
            "layers_per_stage": left.given.parallel.layers_per_stage,
            "placement": left.given.parallel.placement,
            "gpus": world_size(left.given.parallel),
            "trainable": not untrainable_keys(left.given),
            "worst_answer": worst(left.as_written).answer,
            "by_place": [_continuation_dict(each) for each in left.as_written],
        },
        "memory_limit": describe_memory_limit(left.strategy),
        "gpus": left.num_gpus,
        "hosts": dict(zip(left.strategy.cluster.hosts.names, left.strategy.cluster.slots, strict=True)),
        "partly_lost_host": left.kept,
        "num_layouts": len(left.rows),
        "layouts": [
            {
                "placement": row.strategy.parallel.placement,
                "degrees": row.strategy.parallel.short_name,
                "layers_per_stage": row.strategy.parallel.layers_per_stage,
                "zero_stage": row.strategy.parallel.zero_stage,
                "gpus": row.gpus,
                "micro_batch": row.strategy.training.micro_batch,
                "accumulation": row.plan.batch.accumulation,
                "recompute": row.strategy.runtime.recompute.written(),
                "peak_bytes": row.peak_bytes,
                "step_s": row.step_s,
                "tokens_per_s": row.tokens_per_s,
                "trainable": not untrainable_keys(row.strategy),
                "untrainable_keys": list(untrainable_keys(row.strategy)),
            }
            for row in left.rows[:num_rows]
        ],
    }


def _continuation_dict(found: Continuation) -> dict[str, Any]:
    return {
        "place": found.place,
        "lost": found.lost,
        "gpus": found.gpus_left,
        "answer": found.answer,
        "is_bit_identical": found.is_bit_identical,
        "hosts": {host.name: len(host.ranks) for host in found.hosts},
    }
