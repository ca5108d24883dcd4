"""Replica check (runtime.check_replicas_every): every copy of the training state still has the same bits.

Copies are the weights of data-parallel, tensor-parallel and expert-data-parallel peers; without ZeRO their
moments too; under ZeRO 1 and 2 the masters and moments of what TP partners share, whose partitions may be cut
at different places: their fingerprints are summed over the partitions first. bf16 weights are compared with
the fp32 masters of which they are the rounded values. What one rank alone has, nothing is compared with.
"""

from collections.abc import Iterator, Sequence
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

    what: kind and global name. axes: of the groups whose ranks hold the same. start: of a flat part of a
    parameter, the place of its first element. is_part: under ZeRO, one of the parts that lie on the ranks of
    the data group.
    """

    what: str
    tensor: Tensor
    axes: tuple[str, ...]
    start: int = 0
    is_part: bool = False


def check_replicas(engine: DeepSpeedEngine, groups: RankGroups, step: int, folder: Path | None) -> None:
    """Compares all copies: a few small all-reduces where nothing differs. Collective over the world.

    Args:
        folder: of the run, for the tensors that differ.

    Raises:
        Corrupted: on every rank.
    """
    copies = list(_copies(engine, groups))
    parts = _parts(engine, groups)
    held = {copy.what: fingerprint(copy.tensor, copy.start) for copy in copies}
    differing: set[str] = set()
    for axis in ("data", "tp", "edp"):
        names = [copy.what for copy in copies if axis in copy.axes]
        differing |= _differing(names, [held[name] for name in names], getattr(groups, axis))
    if parts:
        sums = torch.stack(
            [fingerprint(p.tensor, p.start) if p.tensor.numel() else _zero(engine) for p in parts]
        )
        dist.all_reduce(sums, group=groups.data.process_group)  # wraps around, as fingerprints do
        differing |= _differing([part.what for part in parts], list(sums), groups.tp)
    unrounded = _not_rounded(engine)
    if sum_over_world(len(differing) + len(unrounded), engine.device) == 0:
        return
    findings = _judge(copies, parts, differing, unrounded, groups)
    own = groups.rank
    tensors = {
        copy.what: copy.tensor
        for copy in (*copies, *parts)
        if any(copy.what == f.what and own in (*f.ranks, *f.others[:1]) for f in findings)
    }
    tensors |= {f"{kind} {name}": x for name, pair in unrounded.items() for kind, x in pair.items()}
    raise Corrupted("SW902", step=step, findings=findings, folder=keep(tensors, folder, step))


def _copies(engine: DeepSpeedEngine, groups: RankGroups) -> Iterator[Copy]:
    """Whole tensors: weights, buffers and, without ZeRO, moments."""
    axes_of = {}
    for name, parameter in engine.module.named_parameters():
        axes_of[id(parameter)] = name, _axes(parameter)
        yield Copy(what=f"{VALUE} {_short(name)}", tensor=parameter, axes=_axes(parameter))
    for name, buffer in engine.module.named_buffers():
        yield Copy(what=f"buffer {_short(name)}", tensor=buffer, axes=("data", "tp"))
    for parameter, flat, tensors in held_tensors(engine.optimizer):
        if flat is None:
            name, axes = axes_of[id(parameter)]
            for kind, tensor in tensors.items():
                if kind != VALUE:
                    yield Copy(what=f"{kind} {_short(name)}", tensor=tensor, axes=axes)


def _parts(engine: DeepSpeedEngine, groups: RankGroups) -> list[Copy]:
    """Under ZeRO: this rank's parts of what TP partners share, an empty one where it has none; one list on
    all ranks of the stage."""
    if groups.tp.size == 1:
        return []
    found: dict[int, tuple[int, dict[str, Tensor]]] = {
        id(parameter): (flat[0], tensors)
        for parameter, flat, tensors in held_tensors(engine.optimizer)
        if flat is not None
    }
    if not hasattr(engine.optimizer, "single_partition_of_fp32_groups"):
        return []
    parts = []
    for name, parameter in engine.module.named_parameters():
        if "tp" not in _axes(parameter):
            continue
        nothing = parameter.new_empty(0)
        start, tensors = found.get(id(parameter), (0, {}))
        kinds = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
        if parameter.dtype != torch.float32:  # else the weight is the master
            kinds = {VALUE: _MASTER} | kinds
        parts += [
            Copy(
                what=f"{shown} {_short(name)}",
                tensor=tensors.get(kind, nothing),
                axes=("tp",),
                start=start,
                is_part=True,
            )
            for kind, shown in kinds.items()
        ]
    return parts


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
    parts: Sequence[Copy],
    differing: set[str],
    unrounded: dict[str, dict[str, Tensor]],
    groups: RankGroups,
) -> list[Finding]:
    """The same on every rank. Collective over the world."""
    names = {name for one in exchange_json(sorted(differing)) for name in one}
    said = exchange_json(
        {
            "unrounded": sorted(unrounded),
            "copies": [
                [copy.what, _holders(copy, groups), copy.start, copy.tensor.numel(), _number(copy)]
                for copy in (*copies, *parts)
                if copy.what in names and copy.tensor.numel()
            ],
        }
    )
    sets: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    for rank, one in enumerate(said):
        for what, holders, start, size, bits in one["copies"]:
            sets.setdefault((what, *holders, start, size), {}).setdefault(bits, []).append(rank)
    findings = [
        _majority(str(key[0]), list(by_bits.values())) for key, by_bits in sets.items() if len(by_bits) > 1
    ]
    # Partitions that TP partners have cut at different places: it is one of those that hold a part.
    for name in sorted(names - {finding.what for finding in findings}):
        ranks = [rank for rank, one in enumerate(said) if any(copy[0] == name for copy in one["copies"])]
        findings.append(Finding(what=name, ranks=tuple(ranks)))
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


def _number(copy: Copy) -> int:
    return int(fingerprint(copy.tensor, copy.start))


def _zero(engine: DeepSpeedEngine) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=engine.device)


def _short(name: str) -> str:
    """Without the training module's own prefix, as in checkpoints."""
    return name.removeprefix("model.")
