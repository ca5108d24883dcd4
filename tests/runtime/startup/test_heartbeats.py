"""Which rank writes its host's heartbeats, and what they say of ranks that stand still or are gone."""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from launch.supervisor.hang_watch import find_failed_ranks
from planner.heartbeats import read_heartbeats
from runtime.process import pulse as pulse_module
from runtime.process.pulse import Pulse, pulse_path
from runtime.profiling.phase_clock import PhaseClock
from runtime.startup.heartbeats import QUIET_S, SILENT_S, STAGE_WAIT, HostHeartbeats
from tests.support.launching import ROOT


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


def test_a_rank_that_waits_for_another_stage_is_told_from_the_one_that_it_waits_for(host: Host) -> None:
    clock = PhaseClock(on_change=host.pulses[4].beat)
    host.pulses[4].waits_for_stage = lambda: clock.current == "stage_wait"
    with clock.phase("compute"), clock.phase("stage_wait"):
        for _ in range(2):
            for beats in (host.beats[5], host.beats[4]):
                beats.beat()
            host.seconds += 2 * QUIET_S
        ranks = read_heartbeats(host.run_folder)
        assert ranks[4].waits_in == STAGE_WAIT
        assert find_failed_ranks(ranks) == (5,)
    host.beats[4].beat()
    assert read_heartbeats(host.run_folder)[4].waits_in is None


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


# Rank 1 comes late to each collective that a run makes; rank 0's heartbeat thread looks meanwhile. Sends and
# receives are not among them: torch 2.13 records those of NCCL, and not those of gloo.
LATE = """
import os, sys, threading, time
os.environ["TORCH_FR_BUFFER_SIZE"] = "64"
import torch, torch.distributed as dist
from runtime.parallel.bytes_exchange import broadcast_bytes, gather_bytes
from runtime.startup.heartbeats import find_open_collective

rank = 0 if os.fork() else 1
store = dist.FileStore(sys.argv[1], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
group = dist.new_group([0, 1], group_desc="tp of layers")
x = torch.ones(4)
late = {
    "all_reduce": lambda: dist.all_reduce(x, group=group),
    "all_gather": lambda: dist.all_gather_into_tensor(torch.empty(8), x),
    "reduce_scatter": lambda: dist.reduce_scatter_tensor(torch.empty(2), x),
    "all_to_all": lambda: dist.all_to_all_single(torch.empty(4), x),
    "broadcast": lambda: dist.broadcast(x, 1),
    "gather_bytes": lambda: gather_bytes(b"x"),
    "broadcast_bytes": lambda: broadcast_bytes(b"x"),
    "gather": lambda: dist.gather(x, [torch.empty(4), torch.empty(4)] if rank == 0 else None, dst=0),
    "barrier": dist.barrier,
}
for name, act in late.items():
    dist.all_reduce(x)
    if rank == 1:
        store.get(name)
        act()
        continue
    seen = []
    def look(name=name):
        deadline = time.monotonic() + 20
        while not (seen and seen[-1]) and time.monotonic() < deadline:
            time.sleep(0.05)
            seen.append(find_open_collective())
        store.set(name, "go on")
    looking = threading.Thread(target=look)
    looking.start()
    act()
    looking.join()
    print(name, "|", seen[-1], flush=True)
if rank == 1:
    os._exit(0)
print("then |", find_open_collective(), flush=True)
"""


def test_every_collective_that_a_run_waits_in_is_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path / "store")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" | ") for line in done.stdout.splitlines())
    groups = {name: wait.partition(" of ")[2] for name, wait in found.items()}
    assert found.pop("then") == "None"
    assert groups.pop("all_reduce") == "tp of layers (group 1)", "what names one group alone"
    groups.pop("then")
    assert set(groups.values()) == {"default_pg (group 0)"}
    operations = {name: wait.split()[0] for name, wait in found.items()}
    assert operations == {
        **{name: name for name in ("all_reduce", "all_gather", "all_to_all")},
        **{name: name for name in ("broadcast", "gather", "barrier")},
        "reduce_scatter": "all_reduce",  # of which gloo makes it
        "gather_bytes": "all_gather",
        "broadcast_bytes": "broadcast",
    }
