"""Interleaved trainings on this host: all are started, then run a few steps in turn by SIGSTOP and SIGCONT.

Runs one after another meet different conditions: other programs start, clock rates drop. Interleaved, what
disturbs one disturbs all.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_POLL_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class JobFailed(RuntimeError):
    """A rank exited by itself, or the job's steps did not come in time."""


class Job:
    """One training of `num_ranks` processes, followed by its telemetry."""

    def __init__(
        self, *, strategy: str, name: str, num_ranks: int, folder: Path, overrides: Sequence[str]
    ) -> None:
        self.name, self._telemetry = name, folder / name / "telemetry.jsonl"
        self.rank_lines = folder / name / "ranks"
        words = [f"name={name}", f"output.folder={folder}", *overrides]
        port = _free_port()
        log = (folder / f"{name}.log").open("wb")
        self._ranks = [
            subprocess.Popen(
                [sys.executable, "train.py", "--strategy", strategy, *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "DS_ACCELERATOR": "cpu",
                    "OMP_NUM_THREADS": "1",
                    "TOKENIZERS_PARALLELISM": "false",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(num_ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            )
            for rank in range(num_ranks)
        ]
        log.close()
        self._log = folder / f"{name}.log"

    def lines(self) -> list[dict[str, Any]]:
        """The steps in telemetry so far."""
        try:
            text = self._telemetry.read_bytes()
        except OSError:
            return []
        return [json.loads(line) for line in text.split(b"\n")[:-1] if line]

    def wait_for(self, num_lines: int, timeout_s: float) -> list[dict[str, Any]]:
        """The steps in telemetry, once there are `num_lines`.

        Raises:
            JobFailed: if a rank exits first, or it takes longer than `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        while len(found := self.lines()) < num_lines:
            if any(rank.poll() is not None for rank in self._ranks):
                raise JobFailed(f"{self.name}: a rank exited; {self._log} ends with: {self._last_words()}")
            if time.monotonic() > until:
                raise JobFailed(f"{self.name}: {len(found)} of {num_lines} steps after {timeout_s:.0f} s")
            time.sleep(_POLL_S)
        return found

    def stop(self) -> None:
        """Suspends all ranks."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Kills all ranks. SIGCONT lets a suspended rank receive the signal."""
        self._signal(signal.SIGKILL)
        self._signal(signal.SIGCONT)
        for rank in self._ranks:
            rank.wait()

    def cpu_s(self) -> float:
        """Processor time of all ranks so far, in seconds."""
        return sum(_cpu_s(rank.pid) for rank in self._ranks)

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


def busy_s() -> float:
    """Processor time that this machine has spent on anything so far, over all cores, in seconds."""
    first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    fields = [int(field) for field in first.split()[1:9]]
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = fields
    return (user + nice + system + interrupt + soft_interrupt + stolen) / _TICKS


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
