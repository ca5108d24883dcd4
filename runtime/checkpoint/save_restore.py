"""Saving the training state of all ranks as one checkpoint, and restoring it into an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from planner import Plan
from runtime.checkpoint.compatibility import Fingerprints
from runtime.checkpoint.engine_state import optimizer_steps, refresh_weights, set_optimizer_steps, views
from runtime.checkpoint.manifest import CheckpointInfo, Meta, read_manifest
from runtime.checkpoint.reader import Reader
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import write
from runtime.parallel.bytes_exchange import broadcast_bytes, gather_bytes
from runtime.parallel.collective_actions import Ranks
from runtime.parallel.groups import RankGroups


def world_ranks() -> Ranks:
    """All ranks of the world, connected by torch.distributed."""
    return Ranks(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        gather=gather_bytes,
        broadcast=broadcast_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the run's checkpoints, on each rank.

    folder: of the checkpoints. files: copied into each checkpoint, by name. holds: whether this attempt still
    holds the run. end_of_text: the tokenizer's id, for generation from the checkpoint alone.
    """

    plan: Plan
    engine: DeepSpeedEngine
    groups: RankGroups
    folder: Path
    files: dict[str, Path]
    prints: Fingerprints
    attempt: int
    horizon: int
    end_of_text: int
    holds: Callable[[], bool]

    def save(self, step: int, result: dict[str, Any]) -> None:
        """Writes weights and both Adam moments, each element by the one rank that owns it. Collective.

        Args:
            result: the run's result so far, printed by a later attempt that finds the run finished.

        Raises:
            CheckpointError: on every rank; the last intact checkpoint is still there.
        """
        plan = self.plan
        pieces = [
            OwnedPiece(
                name=view.name,
                kind=view.kind,
                global_shape=view.shard.global_shape,
                offsets=view.shard.offsets,
                shape=view.shape,
                flat=view.flat,
                tensor=view.tensor,
            )
            for view in views(self.engine, self.groups)
            if view.is_owner
        ]
        meta = Meta(
            attempt=self.attempt,
            model_fingerprint=self.prints.model,
            recipe_fingerprint=self.prints.recipe,
            layout=checkpoint_layout(plan),
            counters={
                "optimizer_steps": optimizer_steps(self.engine),
                "horizon": self.horizon,
                "tokens": step * plan.batch.global_batch * plan.strategy.training.seq_length,
            },
            extra={"end_of_text": self.end_of_text, "result": result},
        )
        write(
            self.folder,
            step,
            pieces,
            meta,
            ranks=world_ranks(),
            files=self.files,
            keep_last=plan.strategy.output.keep_last,
            keep_every=plan.strategy.output.keep_every,
            holds=self.holds,
        )


def restore(folder: Path, engine: DeepSpeedEngine, groups: RankGroups) -> int:
    """Loads this rank's weights and moments, whatever layout wrote them; returns the step. Collective.

    Raises:
        CheckpointError: if a tensor is missing or has another shape.
    """
    info = CheckpointInfo(folder=folder, manifest=read_manifest(folder))
    with Reader(info) as reader, torch.no_grad():
        for view in views(engine, groups):
            if view.name.endswith(".router.bias") and view.name not in info.manifest.tensors:
                continue  # a branch that switches to balance: bias starts at zero
            part = reader.read(
                view.name, view.kind, offsets=view.shard.offsets, shape=view.shape, flat=view.flat
            )
            view.tensor.copy_(part.view_as(view.tensor))
    set_optimizer_steps(engine, info.meta.counters["optimizer_steps"])
    refresh_weights(engine)
    return info.step


def checkpoint_layout(plan: Plan) -> dict[str, Any]:
    """The layout as recorded in a checkpoint."""
    return plan.strategy.parallel.model_dump(mode="json") | {"world_size": plan.world_size}
