"""What was saved in place of the data: pointers of Git LFS, web pages, error messages of a server."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from runtime.data.naming import Naming, shell_path

COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lzma")
# Of files that hold records, or nothing but text; a page under such a name is an answer to a failed download.
RECORD_SUFFIXES = frozenset({".arrow", ".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv"})
DATA_SUFFIXES = RECORD_SUFFIXES | {".text", ".tokens", ".txt"}
LFS = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/v\d\r?\n")
ANNEX = re.compile(rb"/?(\.git/)?annex/objects/\S+\s*")
MAX_POINTER_BYTES = 1024  # Git LFS's own limit
PAGE = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--(?:[^-]|-(?!->))*-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)
STORE_ERROR = re.compile(r"\s*(<\?xml[^>]*>\s*)?<Error>\s*<Code>")
# The complete answers of GitHub, the Hugging Face Hub and others.
ERRORS = frozenset(
    {"404: not found", "404 not found", "access denied", "bad credentials", "entry not found", "forbidden"}
    | {"invalid username or password", "not found", "repository not found", "unauthorized"}
    | {"401: unauthorized", "403: forbidden", "internal server error", "429: too many requests"}
)
ERROR_KEYS = frozenset(
    {"code", "detail", "details", "documentation_url", "error", "error_description", "errors", "message"}
    | {"path", "request_id", "requestid", "status", "status_code", "success", "timestamp", "type"}
)
SAYS_ERROR = frozenset({"detail", "error", "errors", "message"})
MAX_ERROR_CHARACTERS = 4096


class Placeholder(NamedTuple):
    """What the file is, the fix, and its code. `is_fault`: also where a folder brought the file in."""

    what: str
    fix: str
    code: str
    is_fault: bool


def find_pointer(naming: Naming, head: bytes, *, is_complete: bool) -> Placeholder | None:
    """The pointer of a version control that is in the place of the file; None for other files."""
    if not is_complete or len(head) > MAX_POINTER_BYTES:
        return None
    file = naming.file
    folder = shell_path(file.parent)
    if LFS.match(head) and b"\noid sha256:" in head:
        fix = f"fetch the data: git -C {folder} lfs pull, or download the file itself"
        return Placeholder("a pointer of Git LFS, not the file itself", fix, "SW729", _is_data(file))
    if ANNEX.fullmatch(head):
        fix = f"fetch the data: git -C {folder} annex get {shell_path(file.name)}"
        return Placeholder("a pointer of git-annex, not the file itself", fix, "SW729", _is_data(file))
    return None


def find_answer(naming: Naming, head: str, field: str, *, is_complete: bool) -> Placeholder | None:
    """The answer of a server that was saved in place of the data; None for other files."""
    file = naming.file
    suffix = data_suffix(file)
    if suffix in DATA_SUFFIXES and PAGE.match(head):
        rest = file.name.removesuffix(suffix) if file.name.endswith(suffix) else file.name
        page = file.with_name(rest.replace(suffix, "") + ".html" + rest.partition(suffix)[2])
        command = f"mv {shell_path(file)} {shell_path(page)}"
        fix = f"download the file again, or, if the page is the text, say so by its name: {command}"
        return Placeholder(
            "a web page in place of the data", f"{fix}, then write {naming.override(page)}", "SW730", True
        )
    again = "download the file again, or leave it out of data.path"
    if suffix in DATA_SUFFIXES and STORE_ERROR.match(head):
        return Placeholder("an error message of a server", again, "SW730", True)
    if not is_complete or len(head) > MAX_ERROR_CHARACTERS:
        return None
    text = head.strip()
    is_message = suffix in DATA_SUFFIXES and text.lower().rstrip(".!") in ERRORS
    if is_message or _is_error(text, field):
        what = f"an error message of a server: {text if is_message else _shown(text)}"
        return Placeholder(what, again, "SW730", True)
    return None


def data_suffix(file: Path) -> str:
    """The suffix that tells the form, below one of a compression; `.gz` of `train.gz` itself is none."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_data(file: Path) -> bool:
    """Whether the name promises data: a pointer of an image or of a model's weights is skipped with them."""
    suffix = data_suffix(file)
    return not suffix or suffix in DATA_SUFFIXES


def _is_error(text: str, field: str) -> bool:
    """Whether the text is one JSON object of an error's keys, and none of data."""
    if not text.startswith("{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or field in value:
        return False
    keys = {key.lower() for key in value}
    return bool(keys & SAYS_ERROR) and keys <= ERROR_KEYS


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
