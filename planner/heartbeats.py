"""Heartbeats of a run: heartbeats/HOST.json, in which one rank of a host says what each of them does now."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from planner.files import read_file

HEARTBEATS_NAME = "heartbeats"
# In the order in which an attempt goes through them; from the first step on they alternate.
PHASES = ("build", "restore", "first step", "step", "validation", "save", "end")


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A collective that a rank has entered and not left.

    group: what names it alone, the same on all its ranks. number: of this collective among those of the
    group, from 1.
    """

    group: str
    operation: str
    number: int

    def __str__(self) -> str:
        return f"{self.operation} {self.number} of {self.group}"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """One rank.

    beats: grows with everything that its main thread begins; a thread that only waits adds none.
    state: of the process, as psutil names it ("running", "stopped" …); "gone": there is none.
    waits_in: None where it is in no collective, or its threads do not run.
    """

    pid: int
    attempt: int
    phase: str
    step: int
    beats: int
    state: str
    waits_in: Wait | None = None

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Changes when the rank gets any further."""
        return self.attempt, self.phase, self.step, self.beats


def to_bytes(ranks: Mapping[int, Heartbeat]) -> bytes:
    """The content of a host's file."""
    return json.dumps({str(rank): asdict(beat) for rank, beat in sorted(ranks.items())}).encode() + b"\n"


def read_heartbeats(run_folder: Path) -> dict[int, Heartbeat]:
    """Every rank of the run that has written; a file that cannot be read or understood adds none."""
    found: dict[int, Heartbeat] = {}
    for path in sorted((run_folder / HEARTBEATS_NAME).glob("*.json")):
        try:
            content = json.loads(read_file(path))
            ranks = {int(rank): _heartbeat(fields) for rank, fields in content.items()}
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            continue
        for rank, beat in ranks.items():  # a host that left keeps its file
            if rank not in found or beat.attempt > found[rank].attempt:
                found[rank] = beat
    return found


def remove_unfinished(run_folder: Path) -> None:
    """Removes what ranks that were killed have left of files that they were about to replace."""
    for path in (run_folder / HEARTBEATS_NAME).glob(".*.json.*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _heartbeat(fields: Mapping[str, object]) -> Heartbeat:
    """
    Raises:
        TypeError, KeyError, AttributeError: if it is not one.
    """
    waits_in = fields["waits_in"]
    wait = None if waits_in is None else Wait(**_typed(waits_in, Wait, {}))  # type: ignore[arg-type]
    return Heartbeat(**_typed(fields, Heartbeat, {"waits_in": wait}))  # type: ignore[arg-type]


@lru_cache
def _types(kind: type) -> Mapping[str, type]:
    return get_type_hints(kind)


def _typed(fields: Any, kind: type, others: Mapping[str, object]) -> dict[str, object]:
    """The fields of a dataclass whose texts and integers are what they should be; `others` are given."""
    found = dict(others)
    for name, annotation in _types(kind).items():
        if name not in others:
            found[name] = fields[name]
            if type(found[name]) is not annotation:
                raise TypeError(f"{name} is {type(found[name]).__name__}, not {annotation.__name__}")
    return found
