"""A cheap check that copies of a parameter are still the same bits on all ranks that hold one."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.collectives import Group
from runtime.parallel.groups import RankGroups
from runtime.training.grad_norm import is_expert, is_split_over_tp


class ReplicasDiverged(RuntimeError):
    """Ranks that must hold the same parameter do not: what follows would be another model on each."""


def check_replicas(module: nn.Module, groups: RankGroups) -> None:
    """Compares a hash of each parameter among its replicas: two small all-reduces a group. Collective.

    Dense parameters are the same over `data` and, unless split, over `tp`; experts over `edp`.

    Raises:
        ReplicasDiverged: on every rank that holds such a parameter, with its name.
    """
    hashes = {name: torch.hash_tensor(p.detach()) for name, p in module.named_parameters()}
    experts = {name for name, p in module.named_parameters() if is_expert(p)}
    split = {name for name, p in module.named_parameters() if is_split_over_tp(p)}
    faults = []
    for axis, group, names in (
        ("data", groups.data, [name for name in hashes if name not in experts]),
        ("tp", groups.tp, [name for name in hashes if name not in experts | split]),
        ("edp", groups.edp, [name for name in hashes if name in experts]),
    ):
        if group.size == 1 or not names:
            continue
        differing = _differing(names, [hashes[name] for name in names], group)
        if differing:
            faults.append(
                f"{len(differing)} of {len(names)} parameters are not the same on the ranks "
                f"{', '.join(map(str, group.ranks))} ({axis} peers): {', '.join(differing[:3])}"
            )
    if faults:  # only now: the peers were in the same collectives
        raise ReplicasDiverged("; ".join(faults))


def _differing(names: Sequence[str], hashes: Sequence[Tensor], group: Group) -> list[str]:
    highest = torch.stack(list(hashes)).view(torch.int64)
    lowest = highest.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group.process_group)
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=group.process_group)
    return [name for name, differs in zip(names, (highest != lowest).tolist(), strict=True) if differs]
