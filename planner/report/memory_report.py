"""Report of memory: the fullest rank of each stage by cause, and bytes per parameter."""

from typing import Any

from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.memory.fit import fits, fullest_rank
from planner.memory.optimizer_state import bytes_per_parameter
from planner.memory.phases import CAUSES
from planner.memory.rank_memory import RankMemory, fullest_ranks
from planner.plan.ds_config import zero_stage
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.plan import Plan
from planner.report.tables import Table
from planner.units import format_bytes, plural

_MAX_ROWS = 12
_NAMES = {"p2p_buffers": "P2P", "saved_copy": "checkpoint copy"}


def memory_table(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> Table:
    """By cause at the fullest moment; a row for each stage, by its fullest rank; of many stages the first,
    the fullest and the last. Causes that no stage has are left out."""
    found = list(zip((stage.name for stage in plan.stages), fullest_ranks(plan, imbalance), strict=True))
    if len(found) > _MAX_ROWS:
        fullest = max(found, key=lambda row: row[1].peak_bytes)
        found = [row for row in found if row in (*found[:2], fullest, *found[-2:])]
    limit = memory_limit(plan.strategy)
    causes = [cause for cause in CAUSES if any(dict(memory.by_cause)[cause] for _, memory in found)]
    columns = (
        "stage",
        "rank",
        "fullest in",
        *(_NAMES.get(cause, cause) for cause in causes),
        "peak",
        f"of {_rounded(limit)}",
    )
    rows = tuple(
        (
            name,
            str(memory.rank),
            memory.fullest.phase,
            *(_rounded(dict(memory.by_cause)[cause]) for cause in causes),
            _rounded(memory.peak_bytes),
            f"{memory.peak_bytes / limit:.1%}",
        )
        for name, memory in found
    )
    return Table(
        title="Memory of the fullest rank, at its fullest moment",
        columns=columns,
        rows=rows,
        numeric=frozenset(columns[1:]) - {"fullest in"},
    )


def _rounded(count: int) -> str:
    return "-" if count == 0 else format_bytes(count)


def memory_lines(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> tuple[str, ...]:
    """Bytes per parameter, and whether the plan fits."""
    zero, precision = zero_stage(plan), plan.strategy.training.precision
    moments = plan.strategy.training.optimizer.moments
    each = bytes_per_parameter(precision, zero, moments=moments)
    data = max(stage.dense.size("data") for stage in plan.stages)
    experts = max((stage.expert.size("edp") for stage in plan.stages if stage.expert is not None), default=1)
    fullest = fullest_rank(plan, imbalance)
    lines = [
        f"{precision} under ZeRO {zero}: {each.total(data):.4g} bytes per dense parameter (over "
        f"{plural(data, 'data-parallel rank')}), {each.total(experts):.4g} per expert parameter "
        f"(over {experts})",
        "peak of each phase, fullest rank: "
        + ", ".join(f"{phase.phase} {format_bytes(phase.total)}" for phase in fullest.phases),
        "weights, masters and moments are exact, the other columns upper bounds",
    ]
    if plan.strategy.runtime.kernels == "fused":
        lines.append("activations of fused kernels are derived: what each must keep, nothing measured")
    if precision == "fp8":
        lines.append("activations are counted as bf16, although FP8 kernels keep some of them in one byte")
    if fits(plan, imbalance):
        lines.append(f"a rank may take {describe_memory_limit(plan.strategy)}")
    else:
        lines.append(does_not_fit(plan, fullest.peak_bytes))
    return tuple(lines)


def does_not_fit(plan: Plan, peak: int) -> str:
    """That a rank needs more than it may take, and what the limit is."""
    return (
        f"does not fit: the fullest rank needs {format_bytes(peak)} of {describe_memory_limit(plan.strategy)}"
    )


def memory_dict(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> dict[str, Any]:
    """The same for machines, in bytes."""
    return {
        "limit_bytes": memory_limit(plan.strategy),
        "limit": describe_memory_limit(plan.strategy),
        "stages": [
            {"stage": stage.name, **rank_dict(memory)}
            for stage, memory in zip(plan.stages, fullest_ranks(plan, imbalance), strict=True)
        ],
    }


def rank_dict(memory: RankMemory) -> dict[str, Any]:
    """A rank's memory in bytes: by cause at the fullest moment, and in each phase of a step."""
    return {
        "rank": memory.rank,
        "fullest_phase": memory.fullest.phase,
        **dict(memory.by_cause),
        "static_bytes": memory.static_bytes,
        "peak_bytes": memory.peak_bytes,
        "phases": [
            {"phase": phase.phase, **dict(phase.by_cause), "peak_bytes": phase.total}
            for phase in memory.phases
        ],
    }
