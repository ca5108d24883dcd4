"""Replica check (runtime.check_replicas_every): every copy of the training state still has the same bits.

Copies are the weights of data-parallel, tensor-parallel and expert-data-parallel peers; without ZeRO their
moments too; under ZeRO 1 and 2 the masters and moments of what TP partners share: TP divides every size
(planner/rules/layout.py), so that they cut their partitions at the same places. bf16 weights are compared
with the fp32 masters of which they are the rounded values. Nothing is compared with what one rank alone has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.collectives import Group
from planner.memory.optimizer_state import update_chunk_elements
from runtime.parallel.bytes_exchange import exchange_json
from runtime.parallel.device import sum_over_world
from runtime.parallel.fingerprint import bits_of, fingerprint
from runtime.parallel.groups import RankGroups
from runtime.training.corruption import Corrupted, Finding
from runtime.training.corruption_evidence import keep
from runtime.training.grad_norm import is_expert, is_split_over_tp
from runtime.training.held_tensors import VALUE, held_tensors

_MASTER = "fp32 master"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A tensor of which other ranks hold copies.

    what: kind and global name. axes: of the groups whose ranks hold the same.
    """

    what: str
    tensor: Tensor
    axes: tuple[str, ...]


def check_replicas(engine: DeepSpeedEngine, groups: RankGroups, step: int, folder: Path | None) -> None:
    """Compares all copies: a few small all-reduces where nothing differs. Collective over the world.

    Args:
        folder: of the run, for the tensors that differ.

    Raises:
        Corrupted: on every rank.
    """
    copies = [copy for copy in _copies(engine) if any(getattr(groups, axis).size > 1 for axis in copy.axes)]
    held = {copy.what: fingerprint(copy.tensor) for copy in copies}
    differing: set[str] = set()
    for axis in ("data", "tp", "edp"):
        names = [copy.what for copy in copies if axis in copy.axes]
        differing |= _differing(names, [held[name] for name in names], getattr(groups, axis))
    unrounded = _not_rounded(engine)
    if sum_over_world(len(differing) + len(unrounded), engine.device) == 0:
        return
    findings = _judge(copies, held, differing, unrounded, groups)
    own = groups.rank
    tensors = {
        copy.what: copy.tensor
        for copy in copies
        if any(copy.what == f.what and own in (*f.ranks, *f.others[:1]) for f in findings)
    }
    tensors |= {f"{kind} {name}": x for name, pair in unrounded.items() for kind, x in pair.items()}
    raise Corrupted("SW902", step=step, findings=findings, folder=keep(tensors, folder, step))


def _copies(engine: DeepSpeedEngine) -> Iterator[Copy]:
    """Weights and buffers; moments, without ZeRO; masters and moments of what TP partners share, under it."""
    named = {id(parameter): (_short(name), parameter) for name, parameter in engine.module.named_parameters()}
    for name, parameter in named.values():
        yield Copy(what=f"{VALUE} {name}", tensor=parameter, axes=_axes(parameter))
    for name, buffer in engine.module.named_buffers():
        yield Copy(what=f"buffer {_short(name)}", tensor=buffer, axes=("data", "tp"))
    for held, flat, tensors in held_tensors(engine.optimizer):
        name, parameter = named[id(held)]
        axes = _axes(parameter)
        if flat is not None:
            axes = ("tp",) if "tp" in axes else ()
        for kind, tensor in tensors.items():
            if kind == VALUE and (flat is None or parameter.dtype == torch.float32):
                continue  # the weight itself
            yield Copy(what=f"{_MASTER if kind == VALUE else kind} {name}", tensor=tensor, axes=axes)


def _not_rounded(engine: DeepSpeedEngine) -> dict[str, dict[str, Tensor]]:
    """By name, weights in bf16 that are not their masters, rounded: both, of this rank's part."""
    names = {id(parameter): _short(name) for name, parameter in engine.module.named_parameters()}
    pairs: list[tuple[str, Tensor, Tensor]] = []
    for parameter, flat, tensors in held_tensors(engine.optimizer):
        if flat is not None and parameter.dtype != torch.float32:
            weight = parameter.detach().reshape(-1)[flat[0] : flat[1]]
            pairs.append((names[id(parameter)], weight, tensors[VALUE]))
    if not pairs:
        return {}
    counts = torch.stack([_count_unequal(weight, master) for _, weight, master in pairs]).tolist()
    return {
        name: {VALUE: weight, _MASTER: master}
        for (name, weight, master), count in zip(pairs, counts, strict=True)
        if count
    }


def _count_unequal(weight: Tensor, master: Tensor) -> Tensor:
    count = torch.zeros((), dtype=torch.int64, device=weight.device)
    size = update_chunk_elements(is_cpu=weight.device.type == "cpu")
    for low, high in zip(weight.split(size), master.split(size), strict=True):
        count += (bits_of(low) != bits_of(high.to(low.dtype))).sum()
    return count


def _judge(
    copies: Sequence[Copy],
    held: Mapping[str, Tensor],
    differing: set[str],
    unrounded: dict[str, dict[str, Tensor]],
    groups: RankGroups,
) -> list[Finding]:
    """The same on every rank. Collective over the world. `held`: fingerprints of the copies."""
    names = {name for one in exchange_json(sorted(differing)) for name in one}
    said = exchange_json(
        {
            "unrounded": sorted(unrounded),
            "copies": [
                [copy.what, _holders(copy, groups), int(held[copy.what])]
                for copy in copies
                if copy.what in names
            ],
        }
    )
    sets: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    for rank, one in enumerate(said):
        for what, holders, bits in one["copies"]:
            sets.setdefault((what, *holders), {}).setdefault(bits, []).append(rank)
    findings = [
        _majority(str(key[0]), list(by_bits.values())) for key, by_bits in sets.items() if len(by_bits) > 1
    ]
    for rank, one in enumerate(said):
        findings += [
            Finding(what=f"{VALUE} {name} and its {_MASTER}", ranks=(rank,)) for name in one["unrounded"]
        ]
    return findings


def _majority(what: str, classes: list[list[int]]) -> Finding:
    """Of ranks that hold the same bits: more than half of all are believed."""
    classes = sorted(classes, key=len, reverse=True)
    rest = tuple(sorted(rank for ranks in classes[1:] for rank in ranks))
    if len(classes[0]) > len(rest):
        return Finding(what=what, ranks=rest, others=tuple(classes[0]))
    return Finding(what=what, ranks=tuple(sorted((*classes[0], *rest))))


def _holders(copy: Copy, groups: RankGroups) -> tuple[int, ...]:
    """The ranks that hold copies."""
    if copy.axes == ("data", "tp"):
        return tuple(groups.stage.ranks)
    ranks: tuple[int, ...] = getattr(groups, copy.axes[0]).ranks
    return ranks


def _axes(parameter: Tensor) -> tuple[str, ...]:
    if is_expert(parameter):
        return ("edp",)
    return ("data",) if is_split_over_tp(parameter) else ("data", "tp")


def _differing(names: Sequence[str], bits: Sequence[Tensor], group: Group) -> set[str]:
    if group.size == 1 or not names:
        return set()
    highest = torch.stack(list(bits))
    lowest = highest.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group.process_group)
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=group.process_group)
    return {name for name, differs in zip(names, (highest != lowest).tolist(), strict=True) if differs}


def _short(name: str) -> str:
    """Without the training module's own prefix, as in checkpoints."""
    return name.removeprefix("model.")
