"""Cache of prepared data: entries keyed by what they were made from, complete or absent, verified when used.

CACHE/<key>/manifest.json   counts, hashes, and the warnings to repeat
CACHE/<key>/tokens.bin      all documents' tokens, little-endian uint16 or uint32
CACHE/<key>/documents.bin   tokens of each document, little-endian int64
CACHE/<key>/targets.bin     one byte for each token: 1 where it is a target; absent where all are
CACHE/<key>/sequences-*.bin documents packed into sequences of that length (runtime/data/packed_file.py)
CACHE/<key>/tokenizer.json
CACHE/<key>/verified.json   size, times and inode of these files when their hashes were last compared
CACHE/seen/<hash>.json      the corpus hash of files with these sizes, times and inodes
CACHE/.tmp-*, .trash-*      being written or deleted; the next start removes what killed processes left
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planner.files import fsync_folder, sha256_of

logger = logging.getLogger(__name__)

MANIFEST_NAME, TOKENS_NAME, DOCUMENTS_NAME, TARGETS_NAME, TOKENIZER_NAME, VERIFIED_NAME, LOCK_NAME = (
    "manifest.json",
    "tokens.bin",
    "documents.bin",
    "targets.bin",
    "tokenizer.json",
    "verified.json",
    "lock",
)
# A file may be modified twice within one tick of its file system's clock, so recently modified files are not
# remembered. A minute also covers a file server whose clock is behind.
SETTLED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class DataManifest:
    """Contents of a cache entry. Token ids are below `num_ids`; `warnings` are repeated at every use.

    part_tokens, part_documents: of each part of data.mix, one after the other; of all data without a mix.

    num_targets, targets_sha256: None where the loss asks for every token.
    """

    key: str
    num_tokens: int
    num_targets: int | None
    token_bytes: int
    tokens_sha256: str
    documents_sha256: str
    targets_sha256: str | None
    tokenizer_sha256: str
    tokenizer_hash: str
    end_of_text: int
    num_ids: int
    num_documents: int
    num_bytes: int
    part_tokens: tuple[int, ...]
    part_documents: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each data file."""
        found = {TOKENS_NAME: self.tokens_sha256, DOCUMENTS_NAME: self.documents_sha256}
        return found if self.targets_sha256 is None else {**found, TARGETS_NAME: self.targets_sha256}


class DamagedEntry(Exception):
    """The cache entry is not what was written; the message says what differs."""


def read_entry(folder: Path) -> DataManifest:
    """The manifest, after the cheap checks: its own hash, the tokenizer's hash, the size of the tokens.

    Raises:
        FileNotFoundError: if there is no such entry.
        DamagedEntry: if one of its files is missing or altered.
    """
    if not folder.is_dir():
        raise FileNotFoundError("no such folder")
    try:
        document = json.loads((folder / MANIFEST_NAME).read_bytes())
        body, expected = document["manifest"], document["sha256"]
        tokenizer_sha256 = hashlib.sha256((folder / TOKENIZER_NAME).read_bytes()).hexdigest()
        num_bytes = (folder / TOKENS_NAME).stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedEntry(f"{folder}: {type(error).__name__}: {error}") from error
    if _digest(body) != expected:
        raise DamagedEntry(f"{folder / MANIFEST_NAME} was altered")
    lists = {name: tuple(value) for name, value in body.items() if isinstance(value, list)}
    manifest = DataManifest(**body | lists)
    if tokenizer_sha256 != manifest.tokenizer_sha256:
        raise DamagedEntry(f"{folder / TOKENIZER_NAME} was altered")
    if num_bytes != manifest.num_tokens * manifest.token_bytes:
        raise DamagedEntry(
            f"{folder / TOKENS_NAME} has {num_bytes} bytes, not {manifest.num_tokens * manifest.token_bytes}"
        )
    return manifest


def verify_files(folder: Path, manifest: DataManifest) -> None:
    """Compares the data files' hashes, unless the files are unchanged since the last comparison.

    Raises:
        DamagedEntry: if one is missing or differs.
    """
    try:
        before = _stat_keys(folder, manifest)
        if json.loads((folder / VERIFIED_NAME).read_bytes()) == before:
            return
    except FileNotFoundError as error:
        if Path(error.filename).name != VERIFIED_NAME:
            raise DamagedEntry(f"{error.filename} is missing") from error
    except (OSError, ValueError):
        logger.debug("%s was not verified before", folder)
    for name, expected in manifest.hashes.items():
        if sha256_of(folder / name) != expected:
            raise DamagedEntry(f"{folder / name} was altered: its SHA-256 differs from the manifest's")
    _remember(folder / VERIFIED_NAME, before)


def write_entry(cache: Path, key: str, fill: Callable[[Path], DataManifest]) -> Path:
    """Lets `fill` write tokens and tokenizer into a new folder, then makes it the entry by one rename.

    Two processes may prepare the same entry at the same time; both then use that of the first to finish.

    Raises:
        OSError: if the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    final = cache / key
    with _own_folder(cache, key) as folder:
        manifest = fill(folder)
        body = asdict(manifest)
        content = json.dumps({"manifest": body, "sha256": _digest(body)}, indent=1)
        (folder / MANIFEST_NAME).write_text(content, encoding="utf-8")
        for name in (*manifest.hashes, TOKENIZER_NAME, MANIFEST_NAME):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        (folder / LOCK_NAME).unlink(missing_ok=True)
        fsync_folder(folder)
        try:
            folder.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            logger.info("another process prepared the same data first: %s", final)
        else:
            fsync_folder(cache)
            _remember(final / VERIFIED_NAME, _stat_keys(final, manifest))
    return final


def discard_entry(folder: Path) -> None:
    """Removes a damaged entry by a rename first, so that no process reads it half deleted."""
    trash = folder.with_name(f".trash-{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return  # another process was faster
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(cache: Path) -> None:
    """Removes what killed processes left: folders whose lock the kernel released."""
    for trash in cache.glob(".trash-*"):
        shutil.rmtree(trash, ignore_errors=True)
    for folder in cache.glob(".tmp-*"):
        try:
            lock = os.open(folder / LOCK_NAME, os.O_RDWR)
        except OSError:
            # Empty: killed right after mkdir. Otherwise it was renamed a moment ago, or the file system has
            # no locks, where an owner cannot be detected: it stays.
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            logger.info("removing leftovers of a killed process: %s", folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def recall_corpus_hash(cache: Path, listing: dict[str, tuple[int, ...]]) -> str | None:
    """The corpus hash of files with exactly these sizes, times and inodes, if it was computed before."""
    try:
        seen = json.loads(_seen(cache, listing).read_bytes())
        return str(seen["corpus"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_corpus_hash(cache: Path, listing: dict[str, tuple[int, ...]], corpus_hash: str) -> None:
    """Keeps the hash for the next start, unless a file was modified in the last SETTLED_S seconds."""
    newest_ns = max((max(mtime, ctime) for _, mtime, ctime, _ in listing.values()), default=0)
    if time.time() - newest_ns / 1e9 > SETTLED_S:
        _remember(_seen(cache, listing), {"corpus": corpus_hash})


@contextmanager
def _own_folder(cache: Path, key: str) -> Iterator[Path]:
    """A new folder whose lock this process holds; deleted at the end if it was not renamed."""
    while True:
        folder = cache / f".tmp-{key[:16]}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue  # another process removed the empty folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug(
                "%s has no file locks (%s): remove leftovers of killed processes by hand", cache, error
            )
            (folder / LOCK_NAME).unlink()
            break
        if (folder / LOCK_NAME).exists():
            break
        os.close(lock)  # removed by another process between opening and locking
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _stat_keys(folder: Path, manifest: DataManifest) -> dict[str, list[int]]:
    statuses = {name: (folder / name).stat() for name in manifest.hashes}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in statuses.items()}


def _seen(cache: Path, listing: dict[str, tuple[int, ...]]) -> Path:
    return cache / "seen" / f"{_digest(list(listing.items()))}.json"


def _remember(file: Path, value: Any) -> None:
    """Writes a hint that only saves time; failing (a cache of another user) costs that time again."""
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.rename(file)
    except OSError as error:
        logger.info("%s cannot be written (%s): the next start hashes again", file, error)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
