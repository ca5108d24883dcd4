"""Files of packed sequences in a cache entry: made by rank 0 for one sequence length, mapped by every rank.

sequences-<seq_length>.bin is one little-endian int64 array: the numbers of sequences and pieces, then the
fields of `PackedSequences`. sequences-<seq_length>.json has its SHA-256 and is written last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from pathlib import Path

import numpy as np

from planner.files import fsync_folder, sha256_of
from runtime.data.cache import DOCUMENTS_NAME, TARGETS_NAME, DamagedEntry, DataManifest
from runtime.data.packing import PackedSequences, join_packed, pack_documents

logger = logging.getLogger(__name__)

# Increase it when the same documents would be packed in another way.
PACKING_FORMAT = 1
# In the order of the file.
FIELDS = ("first_pieces", "num_targets", "num_tokens", "num_pairs", "starts", "lengths")


def prepare_packed(folder: Path, manifest: DataManifest, seq_length: int) -> PackedSequences:
    """Packs the entry's documents, unless that was done before. For rank 0 only.

    Raises:
        OSError: if the files cannot be written.
    """
    try:
        packed, digest = open_packed(folder, seq_length)
        if sha256_of(_file(folder, seq_length, "bin")) == digest:
            return packed
        logger.warning("SW716 the packed sequences are damaged and will be made again: %s", folder)
    except (FileNotFoundError, DamagedEntry):
        logger.info("data: packing documents into sequences of %s tokens", f"{seq_length:,}")
    started = time.perf_counter()
    packed = _pack_parts(folder, manifest, seq_length)
    _write(folder, packed, seq_length)
    logger.info("data: packed in %.1f s", time.perf_counter() - started)
    return packed


def _pack_parts(folder: Path, manifest: DataManifest, seq_length: int) -> PackedSequences:
    """Each part of data.mix in sequences of its own, part by part."""
    lengths = np.fromfile(folder / DOCUMENTS_NAME, "<i8")
    is_target = map_targets(folder, manifest)
    packed = []
    document = token = 0
    for num_documents, num_tokens in zip(manifest.part_documents, manifest.part_tokens, strict=True):
        here = None if is_target is None else is_target[token : token + num_tokens]
        packed.append(pack_documents(lengths[document : document + num_documents], seq_length, here))
        document, token = document + num_documents, token + num_tokens
    return join_packed(packed, np.cumsum([0, *manifest.part_tokens[:-1]]).tolist())


def open_packed(folder: Path, seq_length: int) -> tuple[PackedSequences, str]:
    """The packed sequences, mapped into memory, and the SHA-256 of their file.

    Raises:
        FileNotFoundError: if they were not made.
        DamagedEntry: if a file is not what was written.
    """
    file, stamp = _file(folder, seq_length, "bin"), _file(folder, seq_length, "json")
    try:
        content = json.loads(stamp.read_bytes())
        digest, num_bytes, version = content["sha256"], content["num_bytes"], content["format"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedEntry(f"{stamp}: {type(error).__name__}: {error}") from error
    if version != PACKING_FORMAT:
        raise FileNotFoundError(f"{stamp} is of another version")
    if not file.is_file() or file.stat().st_size != num_bytes:
        raise DamagedEntry(f"{file} is missing or does not have {num_bytes} bytes")
    return _map(file), str(digest)


def map_targets(folder: Path, manifest: DataManifest) -> np.ndarray | None:
    """One byte for each token of the entry, 1 where the loss asks for it; None: it asks for all."""
    if manifest.targets_sha256 is None:
        return None
    return np.memmap(folder / TARGETS_NAME, np.uint8, mode="r")


def _write(folder: Path, packed: PackedSequences, seq_length: int) -> None:
    file, stamp = _file(folder, seq_length, "bin"), _file(folder, seq_length, "json")
    head = np.array([packed.num_sequences, len(packed.starts)])
    fields = (getattr(packed, name) for name in FIELDS)
    values = np.concatenate([head, *fields]).astype("<i8")
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as stream:
            stream.write(values.tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        stamp.unlink(missing_ok=True)
        content = {
            "sha256": sha256_of(temporary),
            "num_bytes": temporary.stat().st_size,
            "format": PACKING_FORMAT,
        }
        temporary.replace(file)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(stamp)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(folder)


def _map(file: Path) -> PackedSequences:
    values = np.memmap(file, np.dtype("<i8"), mode="r")
    num_sequences, num_pieces = (int(value) for value in values[:2])
    sizes = (num_sequences + 1, num_sequences, num_sequences, num_sequences, num_pieces, num_pieces)
    fields = np.split(values[2:], np.cumsum(sizes)[:-1])
    return PackedSequences(**dict(zip(FIELDS, fields, strict=True)))


def _file(folder: Path, seq_length: int, suffix: str) -> Path:
    return folder / f"sequences-{seq_length}.{suffix}"
