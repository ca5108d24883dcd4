"""Report of a plan: stages, hosts and groups as tables for a terminal or a log."""

from collections.abc import Iterator, Sequence
from typing import TextIO

from planner.plan.notes import list_notes
from planner.plan.plan import Host, Plan
from planner.plan.serialization import full_strategy
from planner.report.tables import Table, print_tables
from planner.topology.grid import Grid
from planner.topology.placement import Stage, largest_data_parallel_size

_MAX_HOST_ROWS = 12


def print_plan(
    plan: Plan, out: TextIO, *, is_plain: bool, is_full: bool = False, figures: Sequence[str] = ()
) -> None:
    """A plan for people; plain text without colour or lines for logs, tables of rich for a terminal.

    `figures`: lines to read first, above the tables.
    """
    if is_full:
        print(full_strategy(plan.strategy), file=out)
    tables = (stage_table(plan), host_table(plan), group_table(plan))
    heading = (*_heading(plan), *(("", *figures) if figures else ()))
    print_tables(heading, tables, list_notes(plan), out, is_plain=is_plain)


def _heading(plan: Plan) -> Iterator[str]:
    parallel, cluster, training = plan.strategy.parallel, plan.strategy.cluster, plan.strategy.training
    batch, widest = plan.batch, largest_data_parallel_size(plan.strategy.parallel)
    order = f", rank order {parallel.rank_order}" if parallel.placement == "staged" else ""
    yield f"{plan.strategy.name}: {parallel.layout_name}, {parallel.placement}{order}"
    spare = f", {cluster.spare_hosts} spare" if cluster.spare_hosts else ""
    unit = "GPU" if sum(cluster.slots) == 1 else "GPUs"
    if cluster.gpu.is_cpu:
        unit = "process" if plan.world_size == 1 else "processes"
    total = "" if cluster.gpu.is_cpu else f" of {sum(cluster.slots):,}"
    yield (
        f"{plan.world_size:,}{total} {unit}, on {len(plan.hosts)} of {cluster.hosts.count} "
        f"host{'s' if cluster.hosts.count > 1 else ''}{spare}; plan {plan.fingerprint}"
    )
    tokens = batch.global_batch * training.seq_length
    yield (
        f"batch {batch.global_batch} sequences = micro_batch {batch.micro_batch} × accumulation "
        f"{batch.accumulation} × data-parallel size {widest}"
    )
    yield (
        f"{tokens:,} tokens per step, {tokens * training.steps:,} in {training.steps:,} steps; "
        f"{training.precision}, ZeRO {parallel.zero_stage}"
    )


def stage_table(plan: Plan) -> Table:
    """One row for each stage, in the order activations flow."""
    rows = []
    for stage in plan.stages:
        expert = "-" if stage.expert is None else _product(stage.expert)
        micro_batch = str(plan.batch.micro_batch_of(stage))
        ranks = rank_range(stage.ranks)
        rows.append((stage.name, ranks, layer_text(stage), _product(stage.dense), expert, micro_batch))
    columns = ("stage", "ranks", "holds", "data × tp", "edp × ep", "micro-batch")
    return Table(title="Stages", columns=columns, rows=tuple(rows), numeric=frozenset({"micro-batch"}))


def layer_text(stage: Stage) -> str:
    """What a stage holds: embedding, layers, output."""
    parts = ["embedding"] if stage.contents.embedding else []
    if stage.layers:
        layers = rank_range(stage.layers)
        parts.append(f"layers {layers}" if len(stage.layers) > 1 else f"layer {layers}")
    return ", ".join([*parts, "output"] if stage.contents.output else parts)


def _product(grid: Grid) -> str:
    return " × ".join(str(size) for size in grid.sizes)


def rank_range(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def host_table(plan: Plan) -> Table:
    """The ranks of each host; equal neighbours share a row where there are many."""
    rows: list[tuple[str, str, str, str]] = []
    runs = [[host] for host in plan.hosts]
    if len(plan.hosts) > _MAX_HOST_ROWS:
        runs = _runs_alike(plan)
    for run in runs:
        first, last = run[0], run[-1]
        name = first.name if len(run) == 1 else f"{first.name} … {last.name} ({len(run)})"
        each = str(len(first.ranks)) if len(run) == 1 else f"{len(first.ranks)} each"
        rows.append((name, each, rank_range((*first.ranks, *last.ranks)), _stages_on(plan, first, last)))
    return Table(title="Hosts", columns=("host", "ranks", "which", "stages"), rows=tuple(rows))


def _runs_alike(plan: Plan) -> list[list[Host]]:
    runs: list[list[Host]] = []
    for host in plan.hosts:
        last = runs[-1][-1] if runs else None
        if last is not None and _kind(plan, last) == _kind(plan, host):
            runs[-1].append(host)
        else:
            runs.append([host])
    return runs


def _kind(plan: Plan, host: Host) -> tuple[int, str]:
    return len(host.ranks), _stages_on(plan, host, host)


def _stages_on(plan: Plan, first: Host, last: Host) -> str:
    low, high = first.ranks[0], last.ranks[-1]
    grids = ((stage.name, stage.dense) for stage in plan.stages)
    return ", ".join(name for name, grid in grids if grid.first_rank <= high and low <= grid.last_rank)


def group_table(plan: Plan) -> Table:
    """The groups of each axis in each stage, the first few written out."""
    rows = []
    for stage in plan.stages:
        views = [(stage.dense, "tp"), (stage.dense, "data")]
        if stage.expert is not None:
            views += [(stage.expert, "ep"), (stage.expert, "edp")]
        for grid, axis in views:
            if grid.size(axis) > 1:
                groups = grid.groups(axis)
                rows.append((axis, stage.name, str(len(groups)), str(grid.size(axis)), _examples(groups)))
    order = ("tp", "ep", "edp", "data")
    rows.sort(key=lambda row: order.index(row[0]))  # stable: stages stay in their order
    if not rows:
        rows.append(("-", "all", "0", "1", "every rank is alone"))
    columns = ("group", "stage", "groups", "of", "ranks")
    return Table(title="Groups", columns=columns, rows=tuple(rows), numeric=frozenset({"groups", "of"}))


def _examples(groups: tuple[tuple[int, ...], ...]) -> str:
    shown = [_group(group) for group in groups[:3]]
    if len(groups) > 4:
        shown.append("…")
    if len(groups) > 3:
        shown.append(_group(groups[-1]))
    return "  ".join(shown)


def _group(ranks: tuple[int, ...]) -> str:
    if len(ranks) <= 2:
        return f"({', '.join(str(rank) for rank in ranks)})"
    if ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"({ranks[0]}-{ranks[-1]})"
    if len(ranks) <= 4:
        return f"({', '.join(str(rank) for rank in ranks)})"
    return f"({ranks[0]}, {ranks[1]}, …, {ranks[-1]})"
