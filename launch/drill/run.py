"""One supervised run of a drill, as a process, and what is seen of it from outside."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from launch.drill.processes import processes_of
from launch.supervisor.journal import Entry, read_journal
from planner import build_plan
from planner.files import replace, write_new
from planner.heartbeats import read_heartbeats
from planner.paths import PROJECT
from planner.plan.serialization import strategy_yaml
from planner.strategy.schema import Strategy

# Of runtime/drill.py.
FOLDER_NAME, FAULTS_NAME, BACKGROUND_NAME = "drill", "faults.json", "background"
POLL_S = 0.1
FIRED_TIMEOUT_S = 300.0


class DrillFailed(Exception):
    """The run did not do what was expected of it; says what."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """As runtime/drill.py has it. kind: of the drill, or "wait" for what this program does meanwhile."""

    name: str
    kind: str
    rank: int
    step: int
    phase: str = ""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """When a fault happened. time: seconds since 1970. attempt, step: in which."""

    time: float
    attempt: int
    step: int


class DrillRun:
    """
    Args:
        strategy: of this run, on the drill's hosts.
        in_background: whether its ranks leave the cores to other processes.
    """

    def __init__(self, strategy: Strategy, faults: Sequence[Fault], *, in_background: bool = False) -> None:
        self.plan, self.faults = build_plan(strategy), tuple(faults)
        self.name = strategy.name
        self.folder = Path(strategy.output.folder) / strategy.name
        self._marks = self.folder / FOLDER_NAME
        self._marks.mkdir(parents=True)
        content = json.dumps([asdict(fault) for fault in faults]).encode()
        write_new(self._marks / FAULTS_NAME, content)
        if in_background:
            (self._marks / BACKGROUND_NAME).touch()
        self._strategy_file = self.folder.parent / f"{self.name}.yaml"
        write_new(self._strategy_file, strategy_yaml(self.plan).encode())
        self._output = self.folder.parent / f"{self.name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: list[dict[str, Any]] = []
        self._num_read = 0  # bytes of the telemetry

    def start(self) -> None:
        """Starts its supervisor, also for the second time."""
        command = [sys.executable, "-m", "launch.drill.supervised", str(self._strategy_file)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for(self, name: str) -> None:
        """Until a fault has happened.

        Raises:
            DrillFailed: if the run ends before, or it takes too long.
        """
        self._until(lambda: self.has_fired(name), FIRED_TIMEOUT_S, f"{name} did not happen")

    def mark_of(self, name: str) -> Mark:
        """
        Raises:
            DrillFailed: if it has not happened.
        """
        try:
            return Mark(**json.loads((self._marks / f"{name}.fired").read_bytes()))
        except (OSError, ValueError) as error:  # or the mark is being written
            raise DrillFailed(f"{name} did not happen") from error

    def has_fired(self, name: str) -> bool:
        try:
            self.mark_of(name)
        except DrillFailed:
            return False
        return True

    def add(self, fault: Fault) -> None:
        """Another fault, while the run trains."""
        self._change((*self.faults, fault))

    def drop_pending(self) -> None:
        """No fault happens any more."""
        self._change(tuple(fault for fault in self.faults if self.has_fired(fault.name)))

    def _change(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        replace(self._marks / FAULTS_NAME, json.dumps([asdict(one) for one in faults]).encode())

    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def must_live(self) -> None:
        """
        Raises:
            DrillFailed: if its supervisor has ended.
        """
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise DrillFailed(f"the run ended with {code}: {self.said()[-2000:]}")

    def ask_to_stop(self) -> None:
        """The ranks save and end."""
        assert self._process is not None
        self._process.terminate()

    def go(self, name: str) -> None:
        """Lets the rank continue that waits."""
        (self._marks / f"{name}.go").touch()

    def kill_supervisor(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def finish(self, timeout_s: float) -> int:
        """The exit code of the supervisor.

        Raises:
            DrillFailed: if it does not end in time.
        """
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DrillFailed(f"the run did not end within {timeout_s:.0f} s") from None

    def stop(self) -> None:
        """Ends everything of the run that can be seen from here, whatever its state."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """Those of this machine, on whichever of the hosts that a drill has made on it."""
        return processes_of(self.folder)

    def entries(self) -> list[Entry]:
        return list(read_journal(self.folder))

    def hosts(self) -> tuple[str, ...]:
        """Of the newest attempt, in the order of its ranks."""
        starts = [entry for entry in self.entries() if entry.event == "start"]
        return tuple(starts[-1].facts["hosts"]) if starts else ()

    def ranks_on(self, host: str) -> tuple[int, ...]:
        """Process ids of the ranks of a host."""
        per_host = self.plan.host_size
        place = self.hosts().index(host)
        beats = read_heartbeats(self.folder)
        ranks = range(place * per_host, (place + 1) * per_host)
        return tuple(beats[rank].pid for rank in ranks if rank in beats)

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of its telemetry; read on from where the last call has ended."""
        path = self.folder / "telemetry.jsonl"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._num_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._num_read += len(whole) + len(newline)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # cut off by a kill
                    self._lines.append(json.loads(line))
        return self._lines

    def newest_step(self) -> int:
        """The highest of its telemetry; 0 before the first."""
        return max((line["step"] for line in self.lines()), default=0)

    def time_beyond(self, name: str, *, by_new_attempt: bool) -> float | None:
        """When the run had done the step of a fault after it; None if it never did.

        Args:
            by_new_attempt: only a later attempt than the one that the fault hit counts.

        Raises:
            DrillFailed: if the fault has not happened.
        """
        mark = self.mark_of(name)
        times = (
            line["time"]
            for line in self.lines()
            if line["time"] > mark.time
            and line["step"] >= mark.step
            and (line["attempt"] > mark.attempt or not by_new_attempt)
        )
        return next(times, None)

    def curve(self) -> Mapping[int, tuple[float, float | None, float]]:
        """By step, of its last line: loss, validation loss, gradient norm."""
        return {
            line["step"]: (line["loss"], line["validation_loss"], line["grad_norm"]) for line in self.lines()
        }

    def said(self) -> str:
        """What supervisor, launcher and ranks printed."""
        logs = sorted(self.folder.glob("logs/*_rank*.log"))
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (self._output, *logs)]
        return "".join(texts)

    def _until(self, is_so: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if self._process.poll() is not None:
                raise DrillFailed(f"{otherwise}: the run ended before, with {self._process.returncode}")
            if time.monotonic() > deadline:
                raise DrillFailed(f"{otherwise} within {timeout_s:.0f} s")
            time.sleep(POLL_S)
