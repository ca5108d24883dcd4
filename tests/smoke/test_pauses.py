"""A job that was paused stops like any other: pauses, signals, and when each comes, under every launcher.

The ranks train nothing, so that a case takes seconds: they take signals and watch their launcher with the
product's own code. A pause stops the complete job, as Ctrl-Z does; Slurm's suspend and a debugger stop ranks.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from itertools import product
from pathlib import Path

import psutil
import pytest

from tests.support.jobs import Job, until
from tests.support.launching import free_port

PLAN = ("cluster.gpus_per_host=2", "parallel={ep: 2, zero_stage: 1}")
# A signal between two looks at the flag is heard at the next, as at the end of a step.
STEP_S = 1.5
COMMANDS = {
    "deepspeed": "deepspeed --quiet --num_gpus 2 --master_port PORT",
    "torchrun": "torchrun --nproc_per_node=2 --master_port=PORT",
    "srun": "srun --nodes=1 --ntasks=2 python",
    "mpirun": "mpirun --allow-run-as-root --oversubscribe --bind-to none -np 2 python",
}
LAUNCHERS = ("launch.sh", *COMMANDS)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
MOMENTS = ("before", "during", "after")
# Shorter than a look at the signals; longer; longer than every limit in the ranks (20 s for the step that is
# being trained, 3 s for the echo of a signal) and than the launchers' own beats.
PAUSES_S = (0.1, 2.0, 60.0)
# The cells of `make test`.
QUICK = {
    ("launch.sh", signal.SIGTERM, "before", 2.0),
}
CELLS = [
    pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow)
    for cell in product(LAUNCHERS, SIGNALS, MOMENTS, PAUSES_S)
]
_WALL = 0x40000000  # linux/wait.h: also threads
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h


@pytest.fixture
def environment(launcher: str, request: pytest.FixtureRequest) -> dict[str, str]:
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    found: dict[str, str] = {"LIGHT_STEP_S": str(STEP_S)}
    return found | (request.getfixturevalue("slurm").environment if launcher == "srun" else {})


class Paused:
    """A job of two ranks under a launcher, to be paused."""

    def __init__(self, folder: Path, launcher: str, environment: dict[str, str]) -> None:
        self.job = Job(folder, "paused", None, *PLAN, light=True)
        if launcher == "launch.sh":
            self.job.start(env=environment)
        else:
            words = COMMANDS[launcher].replace("PORT", str(free_port())).split()
            words += ["train.py", "--strategy", str(self.job.run / "strategy.yaml")]
            self.job.start_command(words, cwd=self.job.project, env=environment | _paths())
        seen = self.job.wait_for_light_ranks()
        self.ranks = [psutil.Process(rank["pid"]) for rank in seen.values()]

    def __enter__(self) -> "Paused":
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self.job.kill_all()

    def pause(self) -> None:
        for process in self.job.processes():
            process.suspend()

    def resume(self) -> None:
        for process in self.job.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # a rank that goes on ends the launcher
                process.resume()

    def send(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            rank.send_signal(number)

    def has_stopped_by(self, number: signal.Signals) -> None:
        """Every rank has ended because it was asked to, and nothing is left."""
        expected = dict.fromkeys(range(2), f"asked by {number.name}")
        until(lambda: self.job.ends() == expected, 60)
        self.job.finish(90)
        until(lambda: self.job.processes() == [], 60)


def _paths() -> dict[str, str]:
    here = Path(sys.executable).parent
    return {"PATH": f"{here}:{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}


@pytest.mark.parametrize(("launcher", "number", "moment", "paused_s"), CELLS)
def test_a_job_that_was_paused_stops_when_it_is_asked(
    launcher: str,
    number: signal.Signals,
    moment: str,
    paused_s: float,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    with Paused(tmp_path, launcher, environment) as paused:
        if moment == "before":
            paused.send(number)
        paused.pause()
        time.sleep(paused_s / 2)
        if moment == "during":
            paused.send(number)
        time.sleep(paused_s / 2)
        paused.resume()
        if moment == "after":
            time.sleep(2 * STEP_S)
            assert paused.job.ends() == {}, "a pause was taken for a request to stop"
            paused.send(number)
        paused.has_stopped_by(number)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_that_a_debugger_stopped_stop_when_they_are_asked(
    launcher: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """As gdb does it: it stops each thread with ptrace, for several seconds, and lets go again."""
    with Paused(tmp_path, launcher, environment) as paused:
        threads = [_seize(thread) for rank in paused.ranks for thread in _threads(rank.pid)]
        time.sleep(4)
        for thread in threads:
            _ptrace(_DETACH, thread)
        time.sleep(2 * STEP_S)
        assert paused.job.ends() == {}, "a debugger was taken for a request to stop"
        paused.send(signal.SIGTERM)
        paused.has_stopped_by(signal.SIGTERM)


def _threads(process: int) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]


def _seize(thread: int) -> int:
    _ptrace(_SEIZE, thread)
    _ptrace(_INTERRUPT, thread)
    os.waitpid(thread, _WALL)
    return thread


def _ptrace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, None, None) != 0:
        pytest.skip(f"no ptrace here: {os.strerror(ctypes.get_errno())}")
