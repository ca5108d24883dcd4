"""Writing, finding and verifying checkpoints.

    write(folder, step, pieces, meta, ranks=…)     collective; each rank writes the pieces that it owns
    newest(folder, ranks=…) -> CheckpointInfo      the newest intact checkpoint, its hashes verified
    find_damage(info, ranks=…) -> tuple[str, …]    what is wrong with its files

A checkpoint is a folder of safetensors files, one per rank, and one JSON manifest (manifest.py). A kill at
any moment leaves the last intact checkpoint (commit.py).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor

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
from runtime.checkpoint.safetensors_writer import OwnedPiece, WrittenPiece, write_shard
from runtime.checkpoint.shard_header import ExpectedPiece, find_header_fault
from runtime.parallel.collective_actions import ALONE, Ranks, RanksFailed
from runtime.process.usable_cores import num_usable_cores

logger = logging.getLogger(__name__)

# What a rank reports to rank 0 about the file it wrote; None if it owns nothing.
_Shard = tuple[FileRecord, tuple[WrittenPiece, ...]] | None
# A checkpoint, or None and what is wrong with it.
_Opened = tuple[CheckpointInfo | None, tuple[str, ...]]
_MOST_READERS = 16  # of one rank at once: as many files as disks and networks serve well


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

    The pieces of all ranks together cover each tensor exactly once. All is on disk when this returns.

    Args:
        files: more files to copy into it, by their name there; read on rank 0.
        keep_last: how many of the newest checkpoints to keep, at least 1; None: all.
        keep_every: steps that are a multiple of it are kept too.
        holds: whether this attempt still holds the run; called on rank 0, also right before the commit.

    Raises:
        CheckpointError: on every rank, with the first reasons (disk full, a gap in the tensors, the run was
            taken over). The previous newest checkpoint is still there.
    """
    assert keep_last is None or keep_last >= 1, f"keep_last is {keep_last}"

    def begin() -> Path:
        _check_held(holds)
        return commit.begin(folder, step)

    def write_own() -> _Shard:
        return write_shard(_shard_path(target, ranks.rank), pieces) if pieces else None

    def publish() -> None:
        assert shards is not None
        _write_manifest(target, step, meta, shards, files or {})
        _check_held(holds)
        commit.publish(target, step)

    begun: Path | None = None
    try:
        begun = target = ranks.on_rank_0(begin, Path)
        shards = ranks.on_all(write_own, _Shard)
        ranks.on_rank_0(publish, None)
    except RanksFailed as error:
        if ranks.rank == 0 and begun is not None and begun.exists():
            commit.delete_folder(begun)
        raise CheckpointError("SW811", f"{folder}: step {step} was not saved: {error}") from error
    if ranks.rank == 0:
        try:
            commit.prune(folder, step, keep_last=keep_last, keep_every=keep_every)
        except OSError as error:  # the step is saved; old checkpoints left over do not change that
            logger.warning("SW815 %s: old checkpoints could not be removed: %s", folder, error)


def write_shares(
    folder: Path,
    step: int,
    shares: Iterable[tuple[int, Sequence[OwnedPiece]]],
    meta: Meta,
    *,
    files: Mapping[str, Path],
    read: Callable[[OwnedPiece], Tensor],
    progress: Callable[[int], None],
) -> Path:
    """Save one step as `folder`/step-N by one process, in the files of many ranks; returns its folder.

    Args:
        shares: each rank and what it owns. read: the content of a piece.
        progress: called with each rank whose file is written.

    Raises:
        CheckpointError: if it cannot be written. `folder` then has what it had before.
    """
    target: Path | None = None
    try:
        target = commit.begin(folder, step)
        shards: list[_Shard] = []
        for rank, pieces in shares:
            shards.append(write_shard(_shard_path(target, rank), pieces, read) if pieces else None)
            progress(rank)
        _write_manifest(target, step, meta, shards, files)
        commit.publish(target, step)
    except (OSError, CheckpointError) as error:
        if target is not None and target.exists():
            commit.delete_folder(target)
        raise CheckpointError("SW811", f"{folder}: step {step} was not saved: {error}") from error
    return folder / commit.step_name(step)


def newest(folder: Path, ranks: Ranks = ALONE) -> CheckpointInfo | None:
    """The newest intact checkpoint; None if there is none at all. Collective, like `find_damage`.

    `folder` is a folder of checkpoints, a run, or one checkpoint. A damaged checkpoint is skipped, with a
    warning that says what is wrong with it.

    Raises:
        CheckpointError: on every rank, if there are checkpoints and none is intact.
    """
    try:
        paths = ranks.on_rank_0(lambda: commit.candidates(folder), tuple[Path, ...])
        damages: list[str] = []
        for path in paths:
            info, damage = ranks.on_rank_0(partial(_try_to_open, path), _Opened)
            damage = damage if info is None else find_damage(info, ranks)
            if not damage:
                return info
            damages.append(damage[0])
            if ranks.rank == 0:
                logger.warning("SW806 a damaged checkpoint is skipped: %s: %s", path, "; ".join(damage))
    except RanksFailed as error:
        raise CheckpointError("SW817", f"{folder}: checkpoints cannot be read: {error}") from error
    if damages:
        raise CheckpointError("SW805", f"{folder}: no intact checkpoint: {'; '.join(damages[:3])}")
    return None


def find_damage(info: CheckpointInfo, ranks: Ranks = ALONE) -> tuple[str, ...]:
    """What is wrong with a checkpoint's files, one text each; empty if it is intact.

    Collective: each file is read and hashed once, by one of the ranks, and all get the same result.
    """
    expected: dict[str, list[ExpectedPiece]] = {}
    for kinds in info.manifest.tensors.values():
        for tensor in kinds.values():
            for piece in tensor.pieces:
                expected.setdefault(piece.file, []).append(ExpectedPiece(piece=piece, dtype=tensor.dtype))
    by_size = sorted(info.manifest.files.items(), key=lambda item: (-item[1].num_bytes, item[0]))
    share = by_size[ranks.rank :: ranks.world_size]

    def check(item: tuple[str, FileRecord]) -> str | None:
        name, record = item
        return _damage_of(info.folder / name, record, expected.get(name, ()))

    def check_share() -> list[str]:
        # Reading and hashing leave the interpreter to others; most often rank 0 does it alone.
        num_readers = max(1, min(_MOST_READERS, num_usable_cores() // ranks.world_size))
        with ThreadPoolExecutor(num_readers, "checkpoint-verify") as readers:
            return [damage for damage in readers.map(check, share) if damage is not None]

    answers = ranks.on_all(check_share, list[str])
    return ranks.share(tuple(sorted(chain.from_iterable(answers or ()))), tuple[str, ...])


def open_checkpoint(path: Path) -> CheckpointInfo:
    """Open one checkpoint by its folder. Only its manifest is checked; `find_damage` checks the other files.

    Raises:
        CheckpointError: if the manifest is missing or damaged, or of another step than its folder.
    """
    manifest = read_manifest(path)
    step = commit.step_of(path)
    if step is not None and step != manifest.step:
        raise CheckpointError(
            "SW802", f"{path / MANIFEST_NAME} is of step {manifest.step}, not of its folder's"
        )
    return CheckpointInfo(folder=path, manifest=manifest)


def _try_to_open(path: Path) -> _Opened:
    try:
        return open_checkpoint(path), ()
    except CheckpointError as error:
        return None, (str(error),)


def _damage_of(path: Path, record: FileRecord, expected: Sequence[ExpectedPiece]) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != record.num_bytes:
            return f"SW804 {path.name} has {num_bytes:,} bytes instead of {record.num_bytes:,}"
        if (actual := sha256_of(path)) != record.sha256:
            return f"SW804 {path.name} was altered: SHA-256 {actual[:16]}… instead of {record.sha256[:16]}…"
        if expected and (fault := find_header_fault(path, expected)):
            return f"SW804 {path.name} is not what the manifest says: {fault}"
    except FileNotFoundError:
        return f"SW804 {path.name} is missing"
    except OSError as error:
        return f"SW804 {path.name} cannot be read: {error.strerror}"
    return None


def _shard_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:04d}.safetensors"


def _check_held(holds: Callable[[], bool]) -> None:
    if not holds():
        raise CheckpointError("SW812", "a newer attempt holds this run; this one stops saving")


def _write_manifest(
    folder: Path, step: int, meta: Meta, shards: Sequence[_Shard], files: Mapping[str, Path]
) -> None:
    """Copies `files` into the folder, and writes what it then holds."""
    manifest = _make_manifest(step, meta, shards, _copy_into(folder, files))
    write_new(folder / MANIFEST_NAME, to_bytes(manifest))


def _make_manifest(
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
                raise CheckpointError("SW813", f"{piece.name} ({piece.kind}) is {here} and {there}")
            pieces = () if known is None else known.pieces
            kinds[piece.kind] = StoredTensor(
                shape=piece.global_shape, dtype=piece.dtype, pieces=(*pieces, piece.stored)
            )
    manifest = CheckpointManifest(
        schema_version=MANIFEST_VERSION, step=step, meta=meta, files=files, tensors=tensors
    )
    if faults := manifest_faults(manifest):
        raise CheckpointError("SW813", "; ".join(faults[:3]))
    return manifest


def _copy_into(folder: Path, files: Mapping[str, Path]) -> dict[str, FileRecord]:
    records = {}
    for name, source in files.items():
        assert FILE_NAME.fullmatch(name), f"{name!r} is not a file name"
        content = source.read_bytes()
        write_new(folder / name, content)
        records[name] = FileRecord(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return records
