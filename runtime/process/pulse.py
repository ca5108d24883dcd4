"""Pulse of a rank: how far its main thread has got, in memory that the other ranks of its host can read.

The memory is a small file below /dev/shm, mapped by every rank of the host: writing it is an assignment, and
it can be read while its owner is stopped, or while a library holds its interpreter lock.
"""

import contextlib
import json
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from planner.heartbeats import PHASES, Wait

_NUMBERS = struct.Struct("<6q")  # pid, attempt, phase, step, beats, thread_beats
_BEATS, _THREAD_BEATS = struct.Struct("<q"), struct.Struct("<q")
_BEATS_AT, _THREAD_BEATS_AT, _WAIT_AT = 4 * 8, 5 * 8, 6 * 8
_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a pulse says. thread_beats: grows while the rank's threads run, whatever its main one does."""

    pid: int
    attempt: int
    phase: str
    step: int
    beats: int
    thread_beats: int
    waits_in: Wait | None


class Pulse:
    """The pulse of this rank; its main thread writes progress, its heartbeat thread the rest."""

    def __init__(self, path: Path, *, attempt: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._memory = _map(path, create=True)
        self._place = (os.getpid(), attempt)
        self._beats = self._thread_beats = 0
        # Whether the main thread waits for a neighboring stage; whoever has a clock sets it.
        self.waits_for_stage: Callable[[], bool] = lambda: False
        self.enter("build")

    def enter(self, phase: str, step: int = 0) -> None:
        """The main thread begins a phase, one of PHASES."""
        self._beats += 1
        numbers = (*self._place, PHASES.index(phase), step, self._beats, self._thread_beats)
        _NUMBERS.pack_into(self._memory, 0, *numbers)

    def beat(self) -> None:
        """The main thread begins something within its phase. Takes less than a microsecond."""
        self._beats += 1
        _BEATS.pack_into(self._memory, _BEATS_AT, self._beats)

    @property
    def beats(self) -> int:
        return self._beats

    @property
    def attempt(self) -> int:
        return self._place[1]

    def beat_of_thread(self, waits_in: Wait | None) -> None:
        """The heartbeat thread runs; `waits_in`: the collective that the main thread is in."""
        text = b"" if waits_in is None else json.dumps(asdict(waits_in)).encode()
        if len(text) > _SIZE - _WAIT_AT:
            text = b""
        self._memory[_WAIT_AT:] = text.ljust(_SIZE - _WAIT_AT, b"\0")
        self._thread_beats += 1
        _THREAD_BEATS.pack_into(self._memory, _THREAD_BEATS_AT, self._thread_beats)

    def close(self) -> None:
        """Takes the file away; the last rank of a host takes the folder too."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()


def pulse_path(job: str, rank: int) -> Path:
    """Of a rank of this host. job: of all ranks of the attempt, see runtime/process/job.py."""
    return pulse_folder() / f"{_own_prefix()}{job}" / f"rank-{rank:05d}"


def record_folder(job: str) -> Path:
    """Where the ranks of this host put their records of a step; in the folder of their pulses, which is
    removed with it."""
    return pulse_path(job, 0).parent / "records"


def remove_old_pulses() -> None:
    """Removes what attempts whose processes were all killed have left."""
    for folder in pulse_folder().glob(f"{_own_prefix()}*"):
        readings = [read_pulse(path) for path in folder.glob("rank-*")]
        if not any(reading is not None and psutil.pid_exists(reading.pid) for reading in readings):
            shutil.rmtree(folder, ignore_errors=True)


def _own_prefix() -> str:
    """Of the folders of processes that see each other's process ids: containers may share /dev/shm."""
    space = Path("/proc/self/ns/pid")
    number = space.stat().st_ino if space.exists() else 0
    return f"switchyard-{os.getuid()}-{number}-"


def pulse_folder() -> Path:
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def read_pulse(path: Path) -> Reading | None:
    """None if the rank has not begun, or has ended."""
    try:
        with contextlib.closing(_map(path, create=False)) as memory:
            content = bytes(memory)
    except (OSError, ValueError):
        return None
    pid, attempt, phase, step, beats, thread_beats = _NUMBERS.unpack_from(content)
    text = content[_WAIT_AT:].rstrip(b"\0")
    try:
        waits_in = Wait(**json.loads(text)) if text else None
    except (ValueError, TypeError):  # read while it was written
        waits_in = None
    if not 0 <= phase < len(PHASES):
        return None
    return Reading(
        pid=pid,
        attempt=attempt,
        phase=PHASES[phase],
        step=step,
        beats=beats,
        thread_beats=thread_beats,
        waits_in=waits_in,
    )


def _map(path: Path, *, create: bool) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0), 0o600)
    try:
        if create:
            os.ftruncate(descriptor, _SIZE)
        return mmap.mmap(descriptor, _SIZE, access=mmap.ACCESS_WRITE if create else mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
