"""Which rank writes its host's heartbeats, and what they say of ranks that stand still or are gone."""

import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from planner.heartbeats import read_heartbeats
from runtime.process import pulse as pulse_module
from runtime.process.pulse import Pulse, pulse_path
from runtime.startup.heartbeats import SILENT_S, HostHeartbeats


class Host:
    """Ranks 4 and 5 of host-b, both in this process, with a clock of the test's."""

    def __init__(self, run_folder: Path) -> None:
        self.seconds = 100.0
        self.run_folder = run_folder
        self.pulses = {rank: Pulse(pulse_path("job", rank), attempt=3) for rank in (4, 5)}
        self.beats = {
            rank: HostHeartbeats(
                pulse,
                rank=rank,
                ranks=(4, 5),
                job="job",
                host="host-b",
                run_folder=run_folder,
                now=lambda: self.seconds,
            )
            for rank, pulse in self.pulses.items()
        }
        self.file = run_folder / "heartbeats" / "host-b.json"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(pulse_module, "pulse_folder", lambda: tmp_path / "shm")
    run = tmp_path / "run"
    run.mkdir()
    return Host(run)


def test_the_lowest_rank_writes_for_its_host(host: Host) -> None:
    host.pulses[4].enter("step", 9)
    host.pulses[5].enter("save", 9)
    host.beats[4].beat()
    host.beats[5].beat()
    before = host.file.stat().st_mtime_ns
    host.beats[5].beat()
    assert host.file.stat().st_mtime_ns == before
    ranks = read_heartbeats(host.run_folder)
    assert {rank: (beat.phase, beat.step, beat.attempt) for rank, beat in ranks.items()} == {
        4: ("step", 9, 3),
        5: ("save", 9, 3),
    }


def test_the_next_rank_writes_where_the_threads_of_the_lowest_stand_still(host: Host) -> None:
    host.beats[4].beat()
    host.beats[5].beat()
    host.file.unlink()
    host.seconds += SILENT_S - 0.1
    host.beats[5].beat()
    assert not host.file.exists()
    host.seconds += 0.2
    host.beats[5].beat()
    assert host.file.exists()
    host.beats[4].beat()  # it runs again
    host.file.unlink()
    host.beats[5].beat()
    assert not host.file.exists()


def test_the_next_rank_writes_at_once_where_the_lowest_is_gone(host: Host) -> None:
    host.beats[4].beat()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with patch("runtime.process.pulse.os.getpid", return_value=gone.pid):
        Pulse(pulse_path("job", 4), attempt=3)
    host.file.unlink()
    host.beats[5].beat()
    assert read_heartbeats(host.run_folder)[4].state == "gone"


def test_a_stopped_rank_is_told_as_stopped(host: Host) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        psutil.Process(sleeper.pid).suspend()
        while psutil.Process(sleeper.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with patch("runtime.process.pulse.os.getpid", return_value=sleeper.pid):
            Pulse(pulse_path("job", 5), attempt=3)
        host.beats[4].beat()
        assert read_heartbeats(host.run_folder)[5].state == "stopped"
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_broken_file_of_one_host_hides_no_other(host: Host) -> None:
    host.beats[4].beat()
    for number, text in enumerate((b"", b"{", b"[1]", b'{"1": {}}', b'{"x": 1}', b"\xff")):
        host.file.with_name(f"broken{number}.json").write_bytes(text)
    assert set(read_heartbeats(host.run_folder)) == {4, 5}


def test_the_newest_attempt_of_a_rank_counts(host: Host) -> None:
    host.beats[4].beat()
    other = host.file.with_name("host-a.json")
    other.write_text(host.file.read_text().replace('"attempt": 3', '"attempt": 2').replace("build", "step"))
    assert read_heartbeats(host.run_folder)[4].phase == "build"
