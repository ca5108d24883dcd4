"""Program of a drill's ranks: train.py, with faults at the steps that the drill's file names.

`deepspeed --module runtime.drill --strategy RUN/strategy.yaml`, started by `python -m launch drill`. Each
fault of RUN/drill/faults.json happens once, in whichever attempt comes there first; RUN/drill/NAME.fired
says when: time, attempt and step.
"""

import ctypes
import errno
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.files import write_new
from planner.paths import PROJECT
from runtime.process.handover import hand_over
from runtime.process.pulse import Pulse

FOLDER_NAME, FAULTS_NAME, BACKGROUND_NAME = "drill", "faults.json", "background"
GO_TIMEOUT_S = 60.0
# The rank's heartbeat thread, which beats once a second, fails within so long; if not, the rank goes on.
THREAD_END_S = 30.0
# The thread that takes signals has one within so long, and so before the step ends.
SIGNAL_S = 1.0
# The supervisor knows how long a step may take once it has seen one begin and end: heartbeats are written
# every second. A step that is as long as this before the one in which a rank hangs is seen.
SEEN_S = 2.0
USAGE = "deepspeed --module runtime.drill --strategy RUN/strategy.yaml, which `python -m launch drill` starts"
_NICEST = 19
_STEP_PHASES = ("first step", "step")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """name: of its mark. kind: a key of ACTIONS. rank: on which it happens, when its step begins, or the
    first one after it.

    phase: of a save (SAVE_PHASES), for the kinds that happen in one.
    """

    name: str
    kind: str
    rank: int
    step: int
    phase: str = ""


def main(argv: Sequence[str]) -> None:
    """Ends the process as train.py does."""
    if "--strategy" not in argv[:-1]:
        print(f"usage: {USAGE}", file=sys.stderr)
        sys.exit(2)
    if (code := hand_over("runtime.drill", argv)) is not None:
        sys.exit(code)
    folder = Path(argv[list(argv).index("--strategy") + 1]).parent / FOLDER_NAME
    arm(folder, int(os.environ.get("RANK", "0")))
    sys.argv[1:] = argv
    runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")


def arm(folder: Path, rank: int) -> None:
    """From now on this rank looks at each beginning of a phase whether a fault is due."""
    if (folder / BACKGROUND_NAME).exists():
        os.nice(_NICEST)
    enter = Pulse.enter

    def enter_and_look(pulse: Pulse, phase: str, step: int = 0) -> None:
        enter(pulse, phase, step)
        if phase not in (*_STEP_PHASES, "save"):
            return
        for fault in read_faults(folder):
            if fault.rank != rank or bool(fault.phase) != (phase == "save"):
                continue
            if fault.kind in _HANGS and step == fault.step - 1 and not _has_fired(folder, fault):
                time.sleep(SEEN_S)
            if fault.step <= step and _mark(folder, fault, pulse.attempt, step):
                ACTIONS[fault.kind](folder, fault)

    setattr(Pulse, "enter", enter_and_look)  # noqa: B010


def read_faults(folder: Path) -> tuple[Fault, ...]:
    """Read each time: the drill may add some."""
    try:
        return tuple(Fault(**fields) for fields in json.loads((folder / FAULTS_NAME).read_bytes()))
    except FileNotFoundError:
        return ()


def _has_fired(folder: Path, fault: Fault) -> bool:
    return (folder / f"{fault.name}.fired").exists()


def _mark(folder: Path, fault: Fault, attempt: int, step: int) -> bool:
    """Whether it has not happened yet."""
    mark = {"time": time.time(), "attempt": attempt, "step": step}
    try:
        write_new(folder / f"{fault.name}.fired", json.dumps(mark).encode())
    except FileExistsError:
        return False
    return True


def _raise(folder: Path, fault: Fault) -> None:
    raise RuntimeError(f"drill: {fault.name}")


def _raise_in_thread(folder: Path, fault: Fault) -> None:
    from runtime.startup.heartbeats import HostHeartbeats

    def beat(heartbeats: HostHeartbeats) -> None:
        raise RuntimeError(f"drill: {fault.name}")

    setattr(HostHeartbeats, "beat", beat)  # noqa: B010
    time.sleep(THREAD_END_S)  # or the step of the next fault might come first


def _segfault(folder: Path, fault: Fault) -> None:
    _leave_no_core()
    ctypes.string_at(0)


def _abort(folder: Path, fault: Fault) -> None:
    _leave_no_core()
    os.abort()


def _leave_no_core() -> None:
    """A core would be written to the working directory, which is the project's."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _signal(number: signal.Signals) -> Callable[[Path, Fault], None]:
    def send(folder: Path, fault: Fault) -> None:
        os.kill(os.getpid(), number)
        time.sleep(SIGNAL_S)

    return send


def _hold_lock(folder: Path, fault: Fault) -> None:
    ctypes.PyDLL(None).sleep(3600)  # PyDLL, unlike CDLL, keeps the interpreter lock during a call


def _wait_for_go(folder: Path, fault: Fault) -> None:
    """Until the drill has done something to hosts or files."""
    deadline = time.monotonic() + GO_TIMEOUT_S
    while not (folder / f"{fault.name}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _fill_disk(folder: Path, fault: Fault) -> None:
    """The next file of this rank's checkpoint finds no space."""
    is_done = False

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal is_done
        if not is_done and event == "open" and str(arguments[0]).endswith(".safetensors"):
            is_done = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(refuse)


def _kill_in_save(folder: Path, fault: Fault) -> None:
    """Before the first change of files that belongs to the phase."""
    event, sign = _SAVE_EVENTS[fault.phase]

    def kill(happened: str, arguments: tuple[object, ...]) -> None:
        if happened == event and any(sign in str(argument) for argument in arguments[:2]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)


# The phases of a save (launch/drill/kinds.py), by the event of Python's audit hooks that begins each, and
# what its path has (runtime/checkpoint/commit.py).
_SAVE_EVENTS = {
    "folder": ("os.mkdir", ".tmp-"),
    "shard": ("open", ".safetensors"),
    "files": ("open", "tokenizer"),
    "manifest": ("open", "manifest.json"),
    "commit": ("os.rename", "step-"),
    "latest": ("open", "latest"),
    "latest-rename": ("os.rename", "latest"),
    "prune": ("os.rename", ".trash-"),
}
ACTIONS: dict[str, Callable[[Path, Fault], None]] = {
    "exception": _raise,
    "thread-exception": _raise_in_thread,
    "segfault": _segfault,
    "abort": _abort,
    "sigint": _signal(signal.SIGINT),
    "sigkill": _signal(signal.SIGKILL),
    "sigterm": _signal(signal.SIGTERM),
    "sigstop": _signal(signal.SIGSTOP),
    "held-lock": _hold_lock,
    "wait": _wait_for_go,
    "disk-full": _fill_disk,
    "save-kill": _kill_in_save,
}
_HANGS = ("sigstop", "held-lock")

if __name__ == "__main__":
    main(sys.argv[1:])
