"""Decides what a checkpoint is to the rest of the program: written by all ranks or not at all, read by any.

    write(folder, step, pieces, meta, ranks=…)     all ranks together, each the pieces that it alone owns
    newest(folder, ranks=…) -> CheckpointInfo      the newest whole one, its hashes verified
    Reader(info).read(name, kind, …) -> Tensor     any part of any tensor, in any layout
    python -m runtime.checkpoint inspect|verify FOLDER

A step is a folder of safetensors files, one a rank, and one JSON manifest (manifest.py). A kill at any moment
leaves the last good checkpoint (commit.py).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from planner.files import sha256_of, write_new
from runtime.checkpoint import commit
from runtime.checkpoint.manifest import (
    FILE_NAME,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    CheckpointError,
    CheckpointInfo,
    CheckpointManifest,
    FileRecord,
    Meta,
    StoredTensor,
    manifest_faults,
    read_manifest,
    to_bytes,
)
from runtime.checkpoint.reader import Reader, read_weights
from runtime.checkpoint.safetensors_writer import OwnedPiece, WrittenPiece, write_shard
from runtime.parallel.collective_actions import ALONE, Ranks, RanksFailed

__all__ = [
    "ALONE",
    "CheckpointError",
    "CheckpointInfo",
    "Meta",
    "OwnedPiece",
    "Ranks",
    "Reader",
    "newest",
    "open_checkpoint",
    "read_weights",
    "verify",
    "write",
]
logger = logging.getLogger(__name__)

# What one rank tells rank 0 about the file it wrote; None where it owned nothing.
_Shard = tuple[FileRecord, tuple[WrittenPiece, ...]] | None


def write(
    folder: Path,
    step: int,
    pieces: Sequence[OwnedPiece],
    meta: Meta,
    *,
    ranks: Ranks = ALONE,
    files: Mapping[str, Path] | None = None,
    keep_last: int | None = None,
    keep_every: int | None = None,
    holds: Callable[[], bool] = lambda: True,
) -> None:
    """Save one step as `folder`/step-N. Collective: every rank calls it, and it succeeds or fails on all.

    The pieces of all ranks together cover each tensor exactly once. It is on disk when this returns.

    Args:
        files: more files to keep with it, by the name they get there; read on rank 0.
        keep_last: how many of the newest checkpoints stay, at least 1; None: all.
        keep_every: steps that are a multiple of it stay too.
        holds: whether this attempt still holds the run; asked on rank 0, lastly right before the commit.

    Raises:
        CheckpointError: on every rank, with the first reasons (disk full, a hole in the tensors, the run was
            taken over). Whatever was the newest whole checkpoint before is still there.
    """
    assert keep_last is None or keep_last >= 1, f"keep_last is {keep_last}"

    def begin() -> Path:
        _give_up_unless(holds)
        return commit.begin(folder, step)

    def write_own() -> _Shard:
        path = temporary / f"rank-{ranks.rank:04d}.safetensors"
        return write_shard(path, pieces) if pieces else None

    def publish() -> None:
        assert shards is not None
        copied = _copy_into(temporary, files or {})
        manifest = _put_together(step, meta, shards, copied)
        write_new(temporary / MANIFEST_NAME, to_bytes(manifest))
        _give_up_unless(holds)
        commit.publish(temporary, step)

    temporary = None
    try:
        temporary = ranks.on_rank_0(begin)
        shards = ranks.on_all(write_own)
        ranks.on_rank_0(publish)
    except RanksFailed as error:
        if ranks.rank == 0 and temporary is not None and temporary.exists():
            commit.delete_folder(temporary)
        raise CheckpointError(f"{folder}: step {step} was not saved: {error}") from error
    if ranks.rank == 0:
        try:
            commit.prune(folder, step, keep_last=keep_last, keep_every=keep_every)
        except OSError as error:  # the step is saved; too much being left over does not change that
            logger.warning("%s: old checkpoints could not be removed: %s", folder, error)


def newest(folder: Path, ranks: Ranks = ALONE) -> CheckpointInfo | None:
    """The newest whole checkpoint; None where there is none at all. Collective, like `verify`.

    `folder` is a folder of checkpoints, a run, or one checkpoint. A damaged one is passed over for the one
    before it, with a warning that says what is wrong.

    Raises:
        CheckpointError: on every rank, if there are checkpoints and none is whole.
    """
    try:
        paths = ranks.on_rank_0(lambda: commit.candidates(folder))
        damages: list[str] = []
        for path in paths:
            info, damage = ranks.on_rank_0(lambda path=path: _opened(path))
            damage = damage if info is None else verify(info, ranks)
            if not damage:
                return info
            damages.append(damage[0])
            if ranks.rank == 0:
                logger.warning("%s is damaged and passed over: %s", path, "; ".join(damage))
    except RanksFailed as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if damages:
        raise CheckpointError(f"{folder}: no checkpoint is whole: {'; '.join(damages[:3])}")
    return None


def verify(info: CheckpointInfo, ranks: Ranks = ALONE) -> tuple[str, ...]:
    """What is wrong with a checkpoint's files, in words; empty when it is whole.

    Collective: each file is read and hashed once, by one of the ranks, and all get the same answer.
    """
    by_size = sorted(info.manifest.files.items(), key=lambda item: (-item[1].num_bytes, item[0]))
    share = by_size[ranks.rank :: ranks.world_size]

    def check_share() -> list[str]:
        found = (_damage_of(info.folder / name, record) for name, record in share)
        return [damage for damage in found if damage is not None]

    answers = ranks.on_all(check_share)
    return ranks.broadcast(None if answers is None else tuple(sorted(chain.from_iterable(answers))))


def open_checkpoint(path: Path) -> CheckpointInfo:
    """One checkpoint by its folder. Its manifest is checked, its other files are not: `verify` does that.

    Raises:
        CheckpointError: if the manifest is missing or damaged.
    """
    return CheckpointInfo(folder=path, manifest=read_manifest(path))


def _opened(path: Path) -> tuple[CheckpointInfo | None, tuple[str, ...]]:
    try:
        return open_checkpoint(path), ()
    except CheckpointError as error:
        return None, (str(error),)


def _damage_of(path: Path, record: FileRecord) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != record.num_bytes:
            return f"{path.name} has {num_bytes:,} bytes of {record.num_bytes:,}"
        if (actual := sha256_of(path)) != record.sha256:
            return f"{path.name} was altered: its sha256 is {actual[:16]}…, not {record.sha256[:16]}…"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def _give_up_unless(holds: Callable[[], bool]) -> None:
    if not holds():
        raise CheckpointError("a newer attempt holds this run; this one gives up")


def _put_together(
    step: int, meta: Meta, shards: Sequence[_Shard], copied: Mapping[str, FileRecord]
) -> CheckpointManifest:
    files = dict(copied)
    tensors: dict[str, dict[str, StoredTensor]] = {}
    for record, written in filter(None, shards):
        files[written[0].stored.file] = record
        for piece in written:
            kinds = tensors.setdefault(piece.name, {})
            known = kinds.get(piece.kind)
            if known is not None and (known.shape, known.dtype) != (piece.global_shape, piece.dtype):
                here = f"{known.dtype} {list(known.shape)} in {known.pieces[0].file}"
                there = f"{piece.dtype} {list(piece.global_shape)} in {piece.stored.file}"
                raise CheckpointError(f"{piece.name} ({piece.kind}) is {here} and {there}")
            pieces = () if known is None else known.pieces
            kinds[piece.kind] = StoredTensor(
                shape=piece.global_shape, dtype=piece.dtype, pieces=(*pieces, piece.stored)
            )
    manifest = CheckpointManifest(
        schema_version=MANIFEST_VERSION, step=step, meta=meta, files=files, tensors=tensors
    )
    if faults := manifest_faults(manifest):
        raise CheckpointError("; ".join(faults[:3]))
    return manifest


def _copy_into(folder: Path, files: Mapping[str, Path]) -> dict[str, FileRecord]:
    records = {}
    for name, source in files.items():
        assert FILE_NAME.fullmatch(name), f"{name!r} is not a file name"
        content = source.read_bytes()
        write_new(folder / name, content)
        records[name] = FileRecord(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return records
