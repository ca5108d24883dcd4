"""Saving the training state of all ranks as one checkpoint, and restoring it into an engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from planner import Plan
from runtime.checkpoint.async_writer import AsyncWriter
from runtime.checkpoint.compatibility import Fingerprints
from runtime.checkpoint.engine_state import optimizer_steps, refresh_weights, set_optimizer_steps, views
from runtime.checkpoint.manifest import CheckpointInfo, Meta, read_manifest
from runtime.checkpoint.reader import Reader
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import write
from runtime.parallel.bytes_exchange import broadcast_bytes, gather_bytes
from runtime.parallel.collective_actions import Ranks
from runtime.parallel.groups import RankGroups


def world_ranks(group: dist.ProcessGroup | None = None) -> Ranks:
    """All ranks of the world, connected by torch.distributed; `group`: another group of all of them."""
    return Ranks(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        gather=partial(gather_bytes, group=group),
        broadcast=partial(broadcast_bytes, group=group),
    )


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the run's checkpoints, on each rank; beside training where the groups have one for it.

    folder: of the checkpoints. files: copied into each checkpoint, by name. holds: whether this attempt still
    holds the run. end_of_text: the tokenizer's id, for generation from the checkpoint alone. on_written:
    called with the step of each checkpoint that counts, on whichever thread has written it.
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
    on_written: Callable[[int], None] = lambda step: None
    _writer: AsyncWriter = field(default_factory=AsyncWriter, init=False)

    def save(self, step: int, result: dict[str, Any]) -> None:
        """Writes weights and both Adam moments, each element by the one rank that owns it. Collective.

        Beside training it returns once they are copied; `finish` waits until they are written.

        Args:
            result: the run's result so far, printed by a later attempt that finds the run finished.

        Raises:
            CheckpointError: on every rank; the last intact checkpoint is still there. Beside training, what
                the save before this one raised.
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

        def write_pieces(pieces: Sequence[OwnedPiece]) -> None:
            write(
                self.folder,
                step,
                pieces,
                meta,
                ranks=world_ranks(self.groups.saving),
                files=self.files,
                keep_last=plan.strategy.output.keep_last,
                keep_every=plan.strategy.output.keep_every,
                holds=self.holds,
            )
            self.on_written(step)

        if self.groups.saving is None:
            write_pieces(pieces)
        else:
            self._writer.begin(pieces, write_pieces)

    @property
    def has_failed(self) -> bool:
        """Whether what was written beside training failed on this rank; `finish` then raises why."""
        return self._writer.has_failed

    def finish(self) -> None:
        """Waits until the last save is written. Collective over the world.

        Raises:
            CheckpointError: on every rank; the last intact checkpoint is still there.
        """
        self._writer.finish()


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
