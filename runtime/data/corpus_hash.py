"""Identity of a corpus's files: sizes and times for a quick look, bytes for the cache key."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from planner.files import sha256_of
from runtime.data.corpus import MAX_PROBLEMS, CorpusUnreadable, Source, unreadable


def stat_sources(sources: Iterable[Source]) -> dict[str, tuple[int, ...]]:
    """Size, mtime_ns, ctime_ns and inode of each file, by its path, after how it was named.

    Equal results mean equal bytes: a write changes ctime, which no program can set back. The device number is
    left out, because it differs between hosts that share a path.

    Raises:
        CorpusUnreadable: if a file is gone.
    """
    rows: dict[str, tuple[int, ...]] = {}
    problems = []
    for source in sources:
        try:
            status = source.file.stat()
        except OSError as error:
            problems.append(unreadable(source.file, error, source.key))
            continue
        rows[f"{_reach(source)}:{source.file}"] = (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )
    if problems:
        raise CorpusUnreadable(problems[:MAX_PROBLEMS])
    return rows


def hash_corpus(sources: Sequence[Source]) -> str:
    """SHA-256 over every file's bytes, in order, and whether data.path names it; its name does not count.

    A file that was skipped because a folder brought it in is a Problem when it is named.

    Raises:
        CorpusUnreadable: with one Problem for each file that cannot be read.
    """

    def hash_source(source: Source) -> bytes | OSError:
        try:
            return bytes.fromhex(sha256_of(source.file))
        except OSError as error:
            return error

    total = hashlib.sha256()
    problems = []
    # Threads, because a shared file system answers slowly and sha256 releases the GIL.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for source, digest in zip(sources, pool.map(hash_source, sources), strict=True):
            if isinstance(digest, OSError):
                problems.append(unreadable(source.file, digest, source.key))
            else:
                total.update(_reach(source).encode() + b"\0" + digest)
    if problems:
        raise CorpusUnreadable(problems[:MAX_PROBLEMS])
    return total.hexdigest()


def _reach(source: Source) -> str:
    reach = "named" if source.is_named else "found"
    return reach if source.part is None else f"{reach} {source.part}"
