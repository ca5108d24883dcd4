"""Compressed files as streams of their content: gzip, zstd, bzip2 and xz, recognized by their first bytes."""

import bz2
import gzip
import io
import lzma
import shlex
from pathlib import Path
from typing import BinaryIO, Literal, cast

Compression = Literal["gzip", "zstd", "bzip2", "xz"]
FIRST_BYTES: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
# The command that writes the content of the file after it.
DECOMPRESSORS: dict[Compression, str] = {
    "gzip": "gzip -dc",
    "zstd": "zstd -dc",
    "bzip2": "bzip2 -dc",
    "xz": "xz -dc",
}
READ_BYTES = 1 << 20


def find_compression(head: bytes) -> Compression | None:
    """The compression of a file that begins with these bytes (six are enough)."""
    return next((name for first, name in FIRST_BYTES.items() if head.startswith(first)), None)


def piped(file: Path, compression: Compression | None, command: str) -> str:
    """The shell command that gives the file's content to `command` as its stdin."""
    name = shlex.quote(str(file))
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
    if compression == "xz":
        return cast(BinaryIO, lzma.open(file, "rb"))
    if compression == "zstd":
        import pyarrow  # an optional dependency, and slow to import

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(file), "rb"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, READ_BYTES))
    return file.open("rb")
