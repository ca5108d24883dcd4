"""Saves the training state of all ranks as one checkpoint, and puts a checkpoint's state into an engine."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from planner import Plan
from runtime.checkpoint import CheckpointInfo, Meta, Piece, Ranks, Reader, write
from runtime.groups import RankGroups
from runtime.resume import Fingerprints
from runtime.state import optimizer_steps, refresh_weights, set_optimizer_steps, views


def world_ranks() -> Ranks:
    """All ranks, by torch.distributed."""
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def gather(obj: object) -> list[object] | None:
        answers = [None] * world_size if rank == 0 else None
        dist.gather_object(obj, answers, dst=0)
        return answers

    def broadcast(obj: object) -> object:
        box = [obj]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    return Ranks(rank=rank, world_size=world_size, gather=gather, broadcast=broadcast)


def layout_of(plan: Plan) -> dict[str, object]:
    """What a checkpoint says of the layout that wrote it."""
    return plan.strategy.parallel.model_dump() | {"world_size": plan.world_size}


def save(
    folder: Path,
    step: int,
    *,
    plan: Plan,
    engine: DeepSpeedEngine,
    groups: RankGroups,
    prints: Fingerprints,
    attempt: int,
    horizon: int,
    files: Mapping[str, Path],
    holds: Callable[[], bool],
) -> None:
    """Writes `folder`/step-N: weights and both Adam moments, each element by the one rank that owns it. Collective.

    Raises:
        runtime.checkpoint.CheckpointError: on every rank; the last good checkpoint is still there.
    """
    pieces = [
        Piece(
            name=view.name,
            kind=view.kind,
            global_shape=view.shard.global_shape,
            offsets=view.shard.offsets,
            shape=view.shape,
            flat=view.flat,
            tensor=view.tensor,
        )
        for view in views(engine, groups)
        if view.is_owner
    ]
    output = plan.strategy.output
    batch = plan.batch
    meta = Meta(
        attempt=attempt,
        model_fingerprint=prints.model,
        course_fingerprint=prints.course,
        layout=layout_of(plan),
        counters={
            "optimizer_steps": optimizer_steps(engine),
            "horizon": horizon,
            "tokens": step * batch.global_batch * plan.strategy.training.seq_length,
        },
    )
    write(
        folder,
        step,
        pieces,
        meta,
        ranks=world_ranks(),
        files=files,
        keep_last=output.keep_last,
        keep_every=output.keep_every,
        holds=holds,
    )


def restore(info: CheckpointInfo, engine: DeepSpeedEngine, groups: RankGroups) -> None:
    """Fills this rank's weights, masters and moments from `info`, whatever layout wrote it. Collective.

    Raises:
        runtime.checkpoint.CheckpointError: if a tensor is missing or has another shape.
    """
    with Reader(info) as reader, torch.no_grad():
        for view in views(engine, groups):
            part = reader.read(
                view.name, view.kind, offsets=view.shard.offsets, shape=view.shape, flat=view.flat
            )
            view.tensor.copy_(part)
    set_optimizer_steps(engine, info.meta.counters["optimizer_steps"])
    refresh_weights(engine)
