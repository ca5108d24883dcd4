"""Replica check: every copy of a parameter still has the same bits, compared by hash."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.collectives import Group
from runtime.parallel.groups import RankGroups
from runtime.training.grad_norm import is_expert, is_split_over_tp


class ReplicasDiverged(RuntimeError):
    """Replicas of a parameter differ between ranks; training on would train several models."""


def check_replicas(module: nn.Module, groups: RankGroups) -> None:
    """Compares a hash of each parameter between its replicas: two small all-reduces per group. Collective.

    Dense parameters are equal over `data` and, unless split, over `tp`; experts over `edp`.

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
                f"{len(differing)} of {len(names)} parameters differ between ranks "
                f"{', '.join(map(str, group.ranks))} ({axis} group): {', '.join(differing[:3])}"
            )
    if faults:  # only after all collectives, which the peers take part in
        raise ReplicasDiverged(f"SW902 replicas differ: {'; '.join(faults)}")


def _differing(names: Sequence[str], hashes: Sequence[Tensor], group: Group) -> list[str]:
    highest = torch.stack(list(hashes)).view(torch.int64)
    lowest = highest.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group.process_group)
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=group.process_group)
    return [name for name, differs in zip(names, (highest != lowest).tolist(), strict=True) if differs]
