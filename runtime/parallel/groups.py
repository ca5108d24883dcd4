"""Process groups of the plan's rank tables, and the check that DeepSpeed uses the same ones.

Only this module makes process groups. Their ranks come from planner.topology.placement; all ranks make all
groups in one order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch.distributed as dist

from model.collectives import NO_CLOCK, Clock, Group, ModelGroups
from model.hierarchical import HostGroups
from planner import Plan, Stage
from planner.topology.host_blocks import by_host

# The description of the group that saves beside training use.
SAVING_GROUP = "checkpoints"


class GroupMismatch(RuntimeError):
    """DeepSpeed's groups differ from the plan's; the message has both tables."""


@dataclass(frozen=True, kw_only=True)
class BoundaryGroups:
    """The process groups of a boundary between two stages: one for activations, one for gradients.

    Over NCCL each is a group of both stages' ranks: NCCL has no tags, and a message that waits in one
    direction must not hold up the other. gloo has tags, so the world's group serves for both.
    """

    activations: dist.ProcessGroup | None  # None is the world's, for torch
    gradients: dist.ProcessGroup | None
    clock: Clock


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
                sends_float8=axis == "ep" and plan.strategy.runtime.fp8_payload,
                host_groups=host_groups,
            )
    boundaries = _make_boundary_groups(plan, clock)
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


def _make_boundary_groups(plan: Plan, clock: Clock) -> list[BoundaryGroups]:
    """One for each boundary, in the order in which activations flow."""
    made = []
    for before, after in pairwise(plan.stages):
        activations = gradients = dist.group.WORLD
        if dist.get_backend() == "nccl":
            ranks = sorted((*before.ranks, *after.ranks))
            activations = _new_group(plan, ranks, f"activations to {after.name}")
            gradients = _new_group(plan, ranks, f"gradients to {before.name}")
        made.append(BoundaryGroups(activations=activations, gradients=gradients, clock=clock))
    return made


class StageGrid:
    """DeepSpeed's `mpu` interface: the rank's data- and tensor-parallel groups in its stage.

    With it DeepSpeed takes the stage's data-parallel group for its world, not the job's.
    """

    def __init__(self, groups: RankGroups) -> None:
        self._groups = groups

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        return self._groups.data.process_group

    def get_data_parallel_world_size(self) -> int:
        return self._groups.data.size

    def get_data_parallel_rank(self) -> int:
        return self._groups.data.rank

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(self._groups.data.ranks)

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        return self._groups.tp.process_group

    def get_model_parallel_world_size(self) -> int:
        return self._groups.tp.size

    def get_model_parallel_rank(self) -> int:
        return self._groups.tp.rank

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank


def give_to_deepspeed(groups: RankGroups) -> StageGrid:
    """Registers the expert groups with DeepSpeed before `initialize` would make its own.

    DeepSpeed 0.19.8 would split the world into expert groups (utils/groups.py:417), which hangs or fails
    where a stage is not the world; it uses groups that are registered already (moe/layer.py:91).
    """
    from deepspeed.utils import groups as theirs

    if groups.stage.expert is not None:
        name = groups.expert_group_name
        theirs._EXPERT_PARALLEL_GROUP[name] = groups.ep.process_group
        theirs._EXPERT_PARALLEL_GROUP_RANKS[name] = list(groups.ep.ranks)
        theirs._EXPERT_DATA_PARALLEL_GROUP[name] = groups.edp.process_group
        theirs._EXPERT_DATA_PARALLEL_GROUP_RANKS[name] = list(groups.edp.ranks)
    grid = StageGrid(groups)
    theirs.mpu = grid
    return grid


def check_deepspeed(groups: RankGroups) -> None:
    """Compares the groups of DeepSpeed's new engine with the plan's.

    Raises:
        GroupMismatch: with both tables, before the first step.
    """
    from deepspeed.utils import groups as theirs

    names = set() if groups.stage.expert is None else {groups.expert_group_name}
    found = {"data": theirs._get_data_parallel_group(), "tp": theirs.mpu.get_model_parallel_group()}
    for name in names:
        found["ep"] = theirs._get_expert_parallel_group(name)
        found["edp"] = theirs._get_expert_data_parallel_group(name)
    planned = {axis: getattr(groups, axis).ranks for axis in found}
    held = {axis: tuple(dist.get_process_group_ranks(group)) for axis, group in found.items()}
    if held != planned or set(theirs._get_expert_parallel_group_dict()) != names:
        raise GroupMismatch(
            f"rank {groups.rank}: DeepSpeed's groups differ from the plan's\n"
            f"  plan:      {planned}\n  DeepSpeed: {held}"
        )
