"""Cordoned hosts: those that no supervised run may use, in OUTPUT_FOLDER/cordoned.json."""

import json
from pathlib import Path

from planner.files import read_file, replace

CORDONED_NAME = "cordoned.json"


def read_cordoned(output_folder: Path) -> tuple[str, ...]:
    """The names; none where there is no such file, or none that can be understood."""
    try:
        content = json.loads(read_file(output_folder / CORDONED_NAME))
        return tuple(name for name in content["hosts"] if isinstance(name, str))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ()


def write_cordoned(output_folder: Path, hosts: tuple[str, ...]) -> None:
    """
    Raises:
        OSError: if it cannot be written.
    """
    output_folder.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": 1, "hosts": sorted(set(hosts))}
    replace(output_folder / CORDONED_NAME, json.dumps(content, indent=1).encode() + b"\n")
