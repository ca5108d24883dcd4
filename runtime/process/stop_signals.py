"""Stop requests of a rank: TERM, INT, HUP and USR1, and the end of whatever started it.

USR2 is a TERM: Open MPI's mpirun, which ends its ranks soon after a TERM of its own, passes USR2 on to them.
HUP is what torchrun and srun pass on when their terminal closes; under nohup it is no request.

A thread of its own takes the signals, since the main thread may be in a collective, where no Python handler
runs. A first signal sets a flag; all ranks agree on it at the next step boundary. A second one of the same
kind, or 20 s without a boundary after all but USR1, ends the rank at once, without a checkpoint; so does the
first of all but USR1 before there are steps, when there is nothing to save.
"""

import signal
import time
from collections.abc import Callable
from typing import NoReturn

from runtime.process.launcher_watch import LauncherWatch, was_asked_to_stop
from runtime.process.service_thread import start_service

STOP_GRACE_S = 20.0
# A terminal or a batch system signals the entire process group, and the launcher passes the signal on:
# what arrives this soon after the first is the same request.
ECHO_S = 3.0
POLL_S = 1.0
# A poll that took this much longer means that the process was paused: by Ctrl-Z, Slurm or a debugger.
PAUSE_S = 2.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def block_signals() -> None:
    """Leaves the stop signals to `StopRequest`'s thread. Call before any library starts threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _heard())


def _heard() -> tuple[signal.Signals, ...]:
    """All of them, without a HUP that nohup has ignored: blocked, it would be received all the same."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if not (is_ignored and number == signal.SIGHUP))


class StopRequest:
    """The flag, its agreement over all ranks, and the exits that cannot wait for an agreement."""

    def __init__(self, parent: int | None = None) -> None:
        """
        Args:
            parent: the launcher's process id; None takes that of this process.
        """
        self._launcher = LauncherWatch(parent)
        self._is_abandoned = False
        self._is_starting = True
        self._asked: str | None = None
        self._deadline = float("inf")
        self._first_at: dict[int, float] = {}
        if was_asked_to_stop():
            self._asked = signal.SIGTERM.name
            self._deadline = time.monotonic() + STOP_GRACE_S

    def listen(self, exit_now: Callable[[str], NoReturn], fail_now: Callable[[str], NoReturn]) -> None:
        """Starts the thread that takes the signals.

        Args:
            exit_now: called from the thread with the reason when the rank must end at once.
            fail_now: called from the thread with the reason if the thread itself fails.
        """
        self._exit_now = exit_now
        start_service("stop-signals", self._listen, fail_now)

    def begin_steps(self) -> None:
        """From now on a first TERM or INT waits for the end of a step."""
        self._is_starting = False

    @property
    def asked(self) -> str | None:
        """The signal's name once this rank was asked to stop."""
        return self._asked

    def agree(self, any_rank: Callable[[bool], bool]) -> bool:
        """Whether any rank was asked to stop, decided at a step boundary by all ranks alike.

        Args:
            any_rank: collective; whether the flag is set on any rank.
        """
        agreed = any_rank(self._asked is not None)
        if agreed:
            # From here on the rank saves, with its peers: the boundary was reached in time.
            self._deadline = float("inf")
        return agreed

    def _listen(self) -> NoReturn:
        heard = _heard()
        while True:
            began = time.monotonic()
            received = signal.sigtimedwait(heard, POLL_S)
            paused_s = time.monotonic() - began - POLL_S
            if paused_s > PAUSE_S:
                self._deadline += paused_s  # no step could end in the meantime
            # After SIGSTOP and SIGCONT, the wait has returned with numbers that are no signal.
            if received is not None and received.si_signo in heard:
                self._receive(received.si_signo)
            if self._is_starting and self._deadline < float("inf"):  # by TERM, INT or HUP
                self._exit_now(f"by {self._asked} while the ranks were starting")
            if time.monotonic() > self._deadline:
                self._exit_now(f"by {self._asked}: no step ended within {STOP_GRACE_S:.0f} s")
            if self._launcher.is_gone():
                self._exit_now("because the launcher has ended")
            if not self._is_abandoned and self._launcher.is_abandoned():
                self._is_abandoned = True
                self._receive(signal.SIGTERM)

    def _receive(self, number: int) -> None:
        number = signal.SIGTERM if number == signal.SIGUSR2 else number
        name = signal.Signals(number).name
        now = time.monotonic()
        first_at = self._first_at.setdefault(number, now)
        if now - first_at > ECHO_S and number != signal.SIGUSR1:
            self._exit_now(f"by a second {name}")
        if self._asked is None:
            self._asked = name
        if number != signal.SIGUSR1:
            self._deadline = min(self._deadline, first_at + STOP_GRACE_S)
