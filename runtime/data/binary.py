"""What a file that is not text is, told by its first bytes, and what to do with it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.data.naming import Naming, shell_path
from runtime.data.sqlite_text import find_text_column

LEAVE_OUT = "leave it out of data.path"
TAR_MARK = slice(257, 262)
SQLITE = b"SQLite format 3\0"
# What pandoc reads, by what the archive begins with.
PANDOC = {
    b"word/": "a Word document",
    b"application/epub+zip": "an e-book (EPUB)",
    b"application/vnd.oasis.opendocument.text": "an OpenDocument text",
}
ZIP = b"PK\x03\x04"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
NUM_NAMES = 4096  # bytes of a ZIP archive in which the name of its first files are looked for


class Binary(NamedTuple):
    """What it is, with its article, and the fix that fits it."""

    what: str
    fix: str


# What holds no text at all.
WITHOUT_TEXT = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\0\0\x01\0": "an icon",
    b"8BPS": "a Photoshop image",
    b"ID3": "an MP3 recording",
    b"fLaC\0": "a FLAC recording",
    b"OggS\0": "an Ogg recording",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"wOFF": "a font",
    b"wOF2": "a font",
    b"\0\x01\0\0\0": "a font",
    b"OTTO\0": "a font",
    b"\x7fELF": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xfe\xed\xfa\xcf": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\0asm": "a program",
    b"!<arch>\n": "a library of object files",
    b"GGUF": "the weights of a model",
}
ARRAYS = "write the text that it was made from, as JSON lines or Parquet, with the program that made it"
THEN = ", then write data.path="
# What may hold text, and how that is had. {file} is the file, {new} the same without its suffix.
WITH_TEXT = {
    b"%PDF-": (
        "a PDF document",
        "extract its text: pdftotext {file} {new}.txt, then write data.path={new}.txt",
    ),
    b"{\\rtf": (
        "an RTF document",
        "convert it: pandoc {file} -t plain -o {new}.txt, then write data.path={new}.txt",
    ),
    SQLITE: (
        "an SQLite database",
        "write the table to CSV: sqlite3 -csv -header {file} 'SELECT * FROM TABLE' > {new}.csv, with its "
        "name in place of TABLE, then write data.path={new}.csv",
    ),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it: 7z x {file} -o{new}, then write data.path={new}"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it: unrar x {file} {new}/, then write data.path={new}"),
    b"\x1f\x9d": (
        "a file of compress",
        "decompress it: gzip -dc {file} > {new}.txt, then write data.path={new}.txt",
    ),
    b"\x04\x22\x4d\x18": (
        "an LZ4 file",
        "decompress it: lz4 -dc {file} > {new}.txt, then write data.path={new}.txt",
    ),
    b"ORC": (
        "an ORC table",
        "convert it: python -c 'import sys, pyarrow.orc, pyarrow.parquet; pyarrow.parquet.write_table("
        "pyarrow.orc.read_table(sys.argv[1]), sys.argv[2])' {file} {new}.parquet, then write "
        "data.path={new}.parquet",
    ),
    b"FEA1": (
        "a Feather table of version 1",
        "convert it: python -c 'import sys, pyarrow.feather, pyarrow.parquet; pyarrow.parquet.write_table("
        "pyarrow.feather.read_table(sys.argv[1]), sys.argv[2])' {file} {new}.parquet, then write "
        "data.path={new}.parquet",
    ),
    b"Obj\x01": ("an Avro file", "write its records as JSON lines (avro-tools tojson {file} > {new}.jsonl)"),
    b"\x93NUMPY": ("an array of NumPy", ARRAYS),
    b"\x89HDF\r\n": ("an HDF5 file", ARRAYS),
    b"MMIDIDX\0": ("the index of a corpus of Megatron-LM", ARRAYS),
    (20240520).to_bytes(4, "little"): ("token ids of llm.c", ARRAYS),
    (20240801).to_bytes(4, "little"): ("token ids of llm.c", ARRAYS),
    OLE: ("a document of Microsoft Office", "save it as plain text or CSV with the program that wrote it"),
    b"WARC/1.": (
        "a web archive (WARC)",
        "extract the text of its pages first, for example with trafilatura or warcio, and write JSON lines",
    ),
}
PICKLE = (
    "write its records as JSON lines with the program that wrote it: a pickle that is read can run anything"
)


def find_binary(naming: Naming, head: bytes) -> Binary | None:
    """What the file's content is if it begins as no text does; None if its first bytes tell nothing.

    Args:
        naming: how a strategy names the file.
        head: the first bytes of the content, decompressed.
    """
    file = naming.file
    for first, what in WITHOUT_TEXT.items():
        if head.startswith(first):
            return Binary(what, LEAVE_OUT)
    new = _unpacked(file)
    if head.startswith(SQLITE):
        found = find_text_column(file)
        if found is not None:
            return Binary(f"an SQLite database, whose texts are in {found.place}", found.fix(naming))
    for first, (what, fix) in WITH_TEXT.items():
        if head.startswith(first):
            return Binary(what, _fill(fix, naming, new))
    if head.startswith(ZIP):
        return _zip(naming, new, head[:NUM_NAMES])
    if head[TAR_MARK] == b"ustar":
        fix = "unpack it: mkdir -p {new} && tar -xf {file} -C {new}, then write data.path={new}"
        return Binary("a tar archive", _fill(fix, naming, new))
    return next((Binary(what, fix) for what, fix, matches in BY_STRUCTURE if matches(head)), None)


def _unpacked(file: Path) -> Path:
    """Where the content goes: the name without its suffixes, unless there is something of this name."""
    name = file.name.removesuffix(file.suffix).removesuffix(".tar")
    new = file.with_name(name) if file.suffix and name else file.with_name(f"{file.name}.content")
    return file.with_name(f"{file.name}.content") if new.exists() else new


def _zip(naming: Naming, new: Path, head: bytes) -> Binary:
    kind = next((name for mark, name in PANDOC.items() if mark in head), None)
    if kind is not None:
        fix = "convert it: pandoc {file} -t plain -o {new}.txt, then write data.path={new}.txt"
        return Binary(kind, _fill(fix, naming, new))
    if b"xl/" in head:
        return Binary("an Excel workbook", "save its sheet as CSV (UTF-8), and name that file in data.path")
    if b"/data.pkl" in head or b".npy" in head:
        what = "an archive of NumPy arrays" if b".npy" in head else "a file of torch.save"
        return Binary(what, ARRAYS)
    if b"ppt/" in head or b"[Content_Types].xml" in head or b"mimetype" in head:
        return Binary("an Office document", "save it as plain text with the program that wrote it")
    fix = "unpack it: python -m zipfile -e {file} {new}, then write data.path={new}"
    return Binary("a ZIP archive", _fill(fix, naming, new))


def _fill(fix: str, naming: Naming, new: Path) -> str:
    command, then, named = fix.partition(THEN)
    for suffix in (".txt", ".csv", ".parquet", ".jsonl"):
        command = command.replace("{new}" + suffix, shell_path(f"{new}{suffix}"))
    command = command.replace("{file}", shell_path(naming.file)).replace("{new}", shell_path(new))
    return naming.then_write(command, Path(named.replace("{new}", str(new)))) if then else command


def _is_pickle(head: bytes) -> bool:
    if re.match(rb"(?:\((?:lp|dp|i)|c[\w.]+\n\w+\n)", head) and re.search(rb"\np\d+\n", head[:NUM_NAMES]):
        return True  # of protocol 0, which is text
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _is_safetensors(head: bytes) -> bool:
    return head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < 1 << 32


def _is_riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == kind


def _is_bitmap(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"


def _is_windows_program(head: bytes) -> bool:
    return head[:2] == b"MZ" and b"\0" in head[:64]


BY_STRUCTURE: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    ("a pickle of Python", PICKLE, _is_pickle),
    (
        "the weights of a model (safetensors)",
        f"{LEAVE_OUT}; model.init_from reads its folder",
        _is_safetensors,
    ),
    ("a WebP image", LEAVE_OUT, _is_riff(b"WEBP")),
    ("a WAV recording", LEAVE_OUT, _is_riff(b"WAVE")),
    ("an AVI video", LEAVE_OUT, _is_riff(b"AVI ")),
    ("an MP4 or QuickTime video", LEAVE_OUT, lambda head: head[4:8] == b"ftyp"),
    ("a BMP image", LEAVE_OUT, _is_bitmap),
    ("a program", LEAVE_OUT, _is_windows_program),
)
