"""Code fingerprint: one hash of the project's own source files."""

import hashlib
from pathlib import Path

from planner.paths import PROJECT

# Files that ranks and commands execute; tests, documents and strategies are not among them.
PLACES = ("train.py", "planner", "launch", "runtime", "model")
SUFFIXES = frozenset({".py", ".yaml", ".in"})


def list_source_files(project: Path = PROJECT) -> tuple[Path, ...]:
    """The files that the fingerprint covers, relative to the project, in a fixed order."""
    found = []
    for place in PLACES:
        path = project / place
        inside = [path] if path.is_file() else path.rglob("*")
        found += [file.relative_to(project) for file in inside if file.suffix in SUFFIXES]
    return tuple(sorted(found, key=lambda file: file.as_posix()))


def code_fingerprint(project: Path = PROJECT) -> str:
    """The names and bytes of all source files: 16 hexadecimal digits.

    Raises:
        OSError: if one of them cannot be read.
    """
    digest = hashlib.sha256()
    for file in list_source_files(project):
        content = hashlib.sha256((project / file).read_bytes()).hexdigest()
        digest.update(f"{content} {file.as_posix()}\n".encode())
    return digest.hexdigest()[:16]
