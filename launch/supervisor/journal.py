"""Journal of a supervised run: journal.jsonl, what was decided and why."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.files import read_file

JOURNAL_NAME = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decision. time: seconds since 1970. text: in plain words. facts: what programs want beside it."""

    time: float
    event: str
    text: str
    facts: Mapping[str, Any]


class Journal:
    """Appends to the journal of a run.

    Args:
        tell: called with each entry, once it is on disk: prints it, calls the hook.
    """

    def __init__(self, run_folder: Path, tell: Callable[[Entry], object]) -> None:
        self._path = run_folder / JOURNAL_NAME
        self._tell = tell

    def write(self, event: str, text: str, **facts: Any) -> None:
        """A disk that takes no entry does not end the run: it is told all the same, with a warning."""
        entry = Entry(time=time.time(), event=event, text=text, facts=facts)
        line = json.dumps({"time": entry.time, "event": event, "text": text, **facts}).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            print(f"warning: SW456 {self._path} takes no entry ({reason})", file=sys.stderr, flush=True)
        self._tell(entry)

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            if file.tell() and not _ends_a_line(self._path):
                line = b"\n" + line  # after a line that a kill cut off
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_journal(run_folder: Path) -> Iterator[Entry]:
    """The entries in their order; what a kill cut off is left out."""
    try:
        lines = read_file(run_folder / JOURNAL_NAME).split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            content = json.loads(line)
            yield Entry(
                time=float(content.pop("time")),
                event=str(content.pop("event")),
                text=str(content.pop("text")),
                facts=content,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
