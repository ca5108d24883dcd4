"""Heartbeats of the ranks of a host, which one of them writes to the run's folder for whoever watches it."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import psutil

from planner.heartbeats import HEARTBEATS_NAME, Heartbeat, Wait, to_bytes
from runtime.process.job import job_of_rank
from runtime.process.pulse import Pulse, Reading, pulse_path, read_pulse, remove_old_pulses
from runtime.process.service_thread import start_service
from runtime.startup.context import RunContext

INTERVAL_S = 1.0
# A rank whose thread has not run for so long writes nothing: it is stopped, or a library holds its lock.
SILENT_S = 3 * INTERVAL_S
# A main thread that has begun nothing new for so long is asked which collective it is in.
QUIET_S = 2 * INTERVAL_S
# Of a rank that waits for activations or gradients: not the one that the others wait for.
STAGE_WAIT = Wait(group="neighboring stages", operation="receive", number=0)


def begin_heartbeats(context: RunContext, fail_now: Callable[[str], NoReturn]) -> Pulse:
    """This rank's pulse, and the thread that tells of it; for a run that is claimed."""
    assert context.folder is not None
    assert context.attempt is not None
    job, host = job_of_rank(), context.plan.host_of(context.rank)
    remove_old_pulses()
    context.pulse = Pulse(pulse_path(job, context.rank), attempt=context.attempt)
    heartbeats = HostHeartbeats(
        context.pulse,
        rank=context.rank,
        ranks=host.ranks,
        job=job,
        host=host.name,
        run_folder=context.folder,
    )
    start_service("heartbeats", heartbeats.serve, fail_now)
    return context.pulse


class HostHeartbeats:
    """What a rank's heartbeat thread does every second. Its main thread only writes its pulse.

    The lowest rank of the host whose thread runs writes the file. A pulse remains readable after its process
    has been killed: then its state is "gone".

    Args:
        ranks: of this host, ascending.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self,
        pulse: Pulse,
        *,
        rank: int,
        ranks: Sequence[int],
        job: str,
        host: str,
        run_folder: Path,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pulse, self._rank, self._now = pulse, rank, now
        self._paths = {other: pulse_path(job, other) for other in ranks}
        self._file = run_folder / HEARTBEATS_NAME / f"{host.replace('/', '_')}.json"
        self._last = (-1, now())  # beats of the main thread, since when
        self._threads: dict[int, tuple[int, float]] = {}  # thread_beats of each rank, since when

    def serve(self) -> NoReturn:
        """Beats until the process ends."""
        while True:
            self.beat()
            time.sleep(INTERVAL_S)

    def beat(self) -> None:
        """Once: this rank's thread, and the host's file if this rank is the one to write it."""
        self._pulse.beat_of_thread(self._open_collective())
        readings = {rank: read_pulse(path) for rank, path in self._paths.items()}
        found = {rank: reading for rank, reading in readings.items() if reading is not None}
        if self._is_writer(found):
            beats = {rank: _heartbeat(reading) for rank, reading in found.items()}
            with contextlib.suppress(
                OSError
            ):  # a full disk; who trains is told of a deleted folder elsewhere
                _put(self._file, to_bytes(beats))

    def _open_collective(self) -> Wait | None:
        beats, now = self._pulse.beats, self._now()
        if beats != self._last[0]:
            self._last = (beats, now)
        if now - self._last[1] < QUIET_S:
            return None
        found = find_open_collective()
        if found is None and self._pulse.waits_for_stage():
            return STAGE_WAIT  # torch 2.13 records no sends and receives of gloo
        return found

    def _is_writer(self, readings: Mapping[int, Reading]) -> bool:
        now = self._now()
        for rank, reading in readings.items():
            if self._threads.get(rank, (-1, 0.0))[0] != reading.thread_beats:
                self._threads[rank] = (reading.thread_beats, now)
        lower = [rank for rank in readings if rank < self._rank]
        return not any(
            now - self._threads[rank][1] < SILENT_S and psutil.pid_exists(readings[rank].pid)
            for rank in lower
        )


def find_open_collective() -> Wait | None:
    """The last collective that this process has begun and not ended, by torch's flight recorder.

    Runs on another thread than the one that waits. None before torch is loaded, and without a recorder.
    """
    if "torch.distributed" not in sys.modules:
        return None
    from torch._C import _distributed_c10d

    from runtime.parallel.groups import SAVING_GROUP

    try:
        record = json.loads(_distributed_c10d._dump_fr_trace_json())  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError, ValueError):  # a build of torch without it
        return None
    open_ones = [
        entry
        for entry in record.get("entries", ())
        if not entry["retired"] and entry["process_group"][1] != SAVING_GROUP  # on a thread beside training
    ]
    if not open_ones:
        return None
    entry = open_ones[-1]
    name, description = entry["process_group"]
    # A name is one group's, and the same on all its ranks. A description may be that of several; torch has
    # "undefined" where there is none.
    has_description = description not in ("", "undefined")
    return Wait(
        group=f"{description} (group {name})" if has_description else f"group {name}",
        operation=entry["profiling_name"].rpartition(":")[2],
        number=entry["p2p_seq_id"] if entry["is_p2p"] else entry["collective_seq_id"],
    )


def _heartbeat(reading: Reading) -> Heartbeat:
    state: str
    try:
        state = psutil.Process(reading.pid).status()
    except psutil.Error:
        state = "gone"
    return Heartbeat(
        pid=reading.pid,
        attempt=reading.attempt,
        phase=reading.phase,
        step=reading.step,
        beats=reading.beats,
        state="gone" if state == psutil.STATUS_ZOMBIE else state,
        waits_in=reading.waits_in,
    )


def _put(path: Path, content: bytes) -> None:
    """A rename without fsync: after a crash of the machine a heartbeat tells nothing."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
