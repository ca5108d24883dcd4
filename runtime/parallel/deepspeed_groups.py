"""The plan's process groups in DeepSpeed, and the check that it uses them."""

import torch.distributed as dist

from runtime.parallel.groups import RankGroups


class GroupMismatch(RuntimeError):
    """DeepSpeed's groups differ from the plan's; the message has both tables."""


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
