"""Compressed files as streams of their content: gzip, zstd, bzip2, xz, lzma, known by their first bytes."""

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import BinaryIO, Literal, cast

from runtime.data.naming import shell_path

Compression = Literal["gzip", "zstd", "bzip2", "xz", "lzma"]
FIRST_BYTES: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",  # the form before xz, with the usual properties; see below
}
# The command that writes the content of the file after it.
DECOMPRESSORS: dict[Compression, str] = {
    "gzip": "gzip -dc",
    "zstd": "zstd -dc",
    "bzip2": "bzip2 -dc",
    "xz": "xz -dc",
    "lzma": "xz -dc --format=lzma",
}
READ_BYTES = 1 << 20


def find_compression(head: bytes) -> Compression | None:
    """The compression of a file that begins with these bytes (sixteen are enough)."""
    found = next((name for first, name in FIRST_BYTES.items() if head.startswith(first)), None)
    # The three bytes say little: after the size of the dictionary comes that of the content, mostly unknown.
    return None if found == "lzma" and not _is_lzma_size(head[5:13]) else found


def _is_lzma_size(field: bytes) -> bool:
    return len(field) == 8 and (field == b"\xff" * 8 or 0 < int.from_bytes(field, "little") < 1 << 40)


def piped(file: Path, compression: Compression | None, command: str) -> str:
    """The shell command that gives the file's content to `command` as its stdin."""
    name = shell_path(file)
    if compression is None:
        return f"{command} < {name}"
    return f"{DECOMPRESSORS[compression]} {name} | {command}"


def open_content(file: Path, compression: Compression | None) -> BinaryIO:
    """The file's content, decompressed while it is read.

    Raises:
        OSError: if the file cannot be opened. Reading raises OSError, EOFError, zlib.error or lzma.LZMAError
            if the compressed data are damaged or incomplete.
        ImportError: for zstd without pyarrow.
    """
    if compression == "gzip":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.open(file, "rb"))
    if compression in ("xz", "lzma"):
        return cast(BinaryIO, lzma.open(file, "rb"))
    if compression == "zstd":
        import pyarrow  # an optional dependency, and slow to import

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(file), "rb"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, READ_BYTES))
    return file.open("rb")
