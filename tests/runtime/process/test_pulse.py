"""A pulse: what another process of the host reads of a rank."""

import os
from pathlib import Path

from planner.heartbeats import Wait
from runtime.process.pulse import Pulse, read_pulse

WAIT = Wait(group="tp 0-1", operation="all_reduce", number=7)


def test_what_a_rank_enters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job" / "rank-00003"
    pulse = Pulse(path, attempt=2)
    pulse.enter("step", 14)
    pulse.beat()
    pulse.beat_of_thread(WAIT)
    reading = read_pulse(path)
    assert reading is not None
    assert (reading.pid, reading.attempt, reading.phase, reading.step) == (os.getpid(), 2, "step", 14)
    assert (reading.beats, reading.thread_beats, reading.waits_in) == (3, 1, WAIT)


def test_a_wait_that_has_ended_is_no_longer_read(tmp_path: Path) -> None:
    path = tmp_path / "job" / "rank-00000"
    pulse = Pulse(path, attempt=1)
    pulse.beat_of_thread(WAIT)
    pulse.beat_of_thread(None)
    reading = read_pulse(path)
    assert reading is not None
    assert reading.waits_in is None
    assert reading.thread_beats == 2


def test_a_rank_that_has_not_begun_or_has_ended_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "job" / "rank-00000"
    assert read_pulse(path) is None
    pulse = Pulse(path, attempt=1)
    pulse.close()
    assert read_pulse(path) is None
    assert not path.parent.exists()


def test_another_program_s_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rank-00000"
    path.write_bytes(b"x" * 1024)
    assert read_pulse(path) is None
    path.write_bytes(b"")
    assert read_pulse(path) is None
