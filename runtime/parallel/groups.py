"""Process groups of the plan's rank tables.

Only this module makes process groups. Their ranks come from planner.topology.placement; all ranks make all
groups in one order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch.distributed as dist

from model.collectives import Group, ModelGroups
from model.hierarchical import HostGroups
from model.observers import NO_CLOCK, Clock
from planner import Plan, Stage
from planner.topology.host_blocks import by_host
from runtime.parallel.exchange_log import FingerprintLog

# The description of the group that saves beside training use.
SAVING_GROUP = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class BoundaryGroups:
    """The process groups of a boundary between two stages: one for activations, one for gradients.

    Over NCCL each is a group of both stages' ranks: NCCL has no tags, and a message that waits in one
    direction must not hold up the other. gloo has tags, so the world's group serves for both.
    """

    activations: dist.ProcessGroup | None  # None is the world's, for torch
    gradients: dist.ProcessGroup | None
    clock: Clock
    log: FingerprintLog


@dataclass(frozen=True, kw_only=True)
class ReductionGroups:
    """The ranks of `data` and `edp` once more, for reductions that run beside other collectives
    (runtime.overlap_reduce): in one group they would wait for each other."""

    data: dist.ProcessGroup
    edp: dist.ProcessGroup


@dataclass(frozen=True, kw_only=True)
class RankGroups:
    """One rank's groups.

    `data` is the data-parallel group of dense parameters in a stage (DeepSpeed's dp group), `edp` that of its
    experts. `data` is wider than the strategy's `parallel.dp`, the number of replicas of the model: with
    ep 4, tp 1, dp 2 there are 2 replicas, edp groups of 2 and a data group of 8. `incoming` and `outgoing`
    are the boundaries to the neighboring stages, None at the ends of the model. A group of one rank has a
    process group too, because DeepSpeed asks for it. `reductions`: None without runtime.overlap_reduce.
    `saving`: the world once more, for saves beside training; None without output.async_save.
    `log`: of what passes through the groups of the model's layers and the boundaries.
    """

    rank: int
    stage: Stage
    data: Group
    tp: Group
    ep: Group
    edp: Group
    incoming: BoundaryGroups | None
    outgoing: BoundaryGroups | None
    model: ModelGroups
    reductions: ReductionGroups | None
    saving: dist.ProcessGroup | None
    log: FingerprintLog

    @property
    def expert_group_name(self) -> str:
        """DeepSpeed's key of this stage's expert groups."""
        return f"ep_size_{self.ep.size}"


def make_groups(plan: Plan, rank: int, clock: Clock = NO_CLOCK) -> RankGroups:
    """Makes all groups of `plan` and returns those of `rank`. Collective over the plan's world.

    Every rank makes every group in the same order, as torch asks; equal tables share one group.
    """
    made: dict[tuple[int, ...], dist.ProcessGroup] = {}
    mine: dict[str, Group] = {}
    log = FingerprintLog()

    def make(ranks: tuple[int, ...], purpose: str) -> dist.ProcessGroup:
        if ranks not in made:
            made[ranks] = _new_group(plan, ranks, purpose)
        return made[ranks]

    for axis, stage_name, ranks in _tables(plan):
        process_group, host_groups = make(ranks, f"{axis} of {stage_name}"), None
        if axis == "ep" and plan.strategy.runtime.all_to_all == "hierarchical":
            host_groups = _make_host_groups(plan, ranks, rank, make)
        if rank in ranks:
            mine[axis] = Group(
                process_group=process_group,
                ranks=ranks,
                rank=ranks.index(rank),
                size=len(ranks),
                clock=clock,
                log=log,
                sends_float8=axis == "ep" and plan.strategy.runtime.fp8_payload,
                host_groups=host_groups,
            )
    boundaries = _make_boundary_groups(plan, clock, log)
    reductions = _make_reduction_groups(plan, rank) if plan.strategy.runtime.overlap_reduce else None
    saving = None
    if plan.strategy.output.async_save:
        saving = _new_group(plan, range(plan.world_size), SAVING_GROUP, backend="gloo")
    place = plan.stages.index(plan.stage_of(rank))
    return RankGroups(
        rank=rank,
        stage=plan.stages[place],
        incoming=boundaries[place - 1] if place > 0 else None,
        outgoing=boundaries[place] if place < len(boundaries) else None,
        reductions=reductions,
        saving=saving,
        log=log,
        **_complete(mine, Group(process_group=made.get((rank,)), ranks=(rank,), rank=0, size=1)),
    )


def tables_of(plan: Plan, rank: int) -> RankGroups:
    """The groups of `rank` without process groups: for its shard of the model where nothing is exchanged."""
    mine = {
        axis: Group(process_group=None, ranks=ranks, rank=ranks.index(rank), size=len(ranks))
        for axis, _, ranks in _tables(plan)
        if rank in ranks
    }
    return RankGroups(
        rank=rank,
        stage=plan.stage_of(rank),
        incoming=None,
        outgoing=None,
        reductions=None,
        saving=None,
        log=FingerprintLog(),
        **_complete(mine, Group(process_group=None, ranks=(rank,), rank=0, size=1)),
    )


def _tables(plan: Plan) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Axis, stage and ranks of every group, in one order."""
    for stage in plan.stages:
        grids = {"data": stage.dense, "tp": stage.dense}
        if stage.expert is not None:
            grids |= {"ep": stage.expert, "edp": stage.expert}
        for axis, grid in grids.items():
            for ranks in grid.groups(axis):
                yield axis, stage.name, ranks


def _complete(mine: dict[str, Group], alone: Group) -> dict[str, Any]:
    """A rank's groups on all axes, and those of them that its layers use."""
    groups = {axis: mine.get(axis, alone) for axis in ("data", "tp", "ep", "edp")}
    layers = {axis: groups[axis] if groups[axis].size > 1 else None for axis in ("tp", "ep")}
    return {**groups, "model": ModelGroups(**layers)}


def _new_group(
    plan: Plan, ranks: Sequence[int], purpose: str, backend: str | None = None
) -> dist.ProcessGroup:
    """A group with the world's timeout for a lost peer, not gloo's default of 30 minutes.

    Args:
        purpose: what heartbeats say of a rank that waits in it.
    """
    made: dist.ProcessGroup = dist.new_group(
        list(ranks),
        timeout=timedelta(seconds=plan.strategy.launch.timeout),
        backend=backend,
        group_desc=purpose,
    )
    return made


def _make_reduction_groups(plan: Plan, rank: int) -> ReductionGroups:
    """Every rank makes those of all stages, in the same order."""
    made: dict[tuple[int, ...], dist.ProcessGroup] = {}
    mine: dict[str, dist.ProcessGroup] = {}
    for stage in plan.stages:
        for axis, grid in (("data", stage.dense), ("edp", stage.expert)):
            for ranks in grid.groups(axis) if grid is not None else ():
                if ranks not in made:
                    made[ranks] = _new_group(plan, ranks, "gradients")
                if rank in ranks:
                    mine[axis] = made[ranks]
    return ReductionGroups(data=mine["data"], edp=mine.get("edp", mine["data"]))


def _make_host_groups(
    plan: Plan, ranks: tuple[int, ...], rank: int, make: Callable[[tuple[int, ...], str], dist.ProcessGroup]
) -> HostGroups | None:
    """Makes the groups of a two-level all-to-all. Every rank calls it; None for others, or one level."""
    members = by_host(ranks, [len(host.ranks) for host in plan.hosts])
    if len(members) == 1 or len(members[0]) == 1:
        return None
    inside = {ranks_inside: make(ranks_inside, "ep inside a host") for ranks_inside in members}
    between = {rail: make(rail, "ep between hosts") for rail in zip(*members, strict=True)}
    if rank not in ranks:
        return None
    return HostGroups(
        inside=next(group for among, group in inside.items() if rank in among),
        between=next(group for among, group in between.items() if rank in among),
        num_hosts=len(members),
        num_local=len(members[0]),
    )


def _make_boundary_groups(plan: Plan, clock: Clock, log: FingerprintLog) -> list[BoundaryGroups]:
    """One for each boundary, in the order in which activations flow."""
    made = []
    for before, after in pairwise(plan.stages):
        activations = gradients = dist.group.WORLD
        if dist.get_backend() == "nccl":
            ranks = sorted((*before.ranks, *after.ranks))
            activations = _new_group(plan, ranks, f"activations to {after.name}")
            gradients = _new_group(plan, ranks, f"gradients to {before.name}")
        made.append(BoundaryGroups(activations=activations, gradients=gradients, clock=clock, log=log))
    return made
