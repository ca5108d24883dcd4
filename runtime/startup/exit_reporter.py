"""Exit of a run: exit code, done.json or failed.json, and one printed reason.

When one rank fails its peers fail too, in a broken collective. The store keeps the first real reason; an
error that only says that a peer is gone waits a moment for it and stays silent when it comes.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from planner import Problem, StrategyError
from planner.exit_codes import ExitCode
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.commit import newest_step
from runtime.startup.claims import claim
from runtime.startup.context import RunContext
from runtime.startup.outcome_files import is_done, may_be_running, write_done, write_failed

ECHO_WAIT_S = 3.0
STORE_WAIT_S = 10.0

# What torch says when the other end of a collective has gone.
_PEER_GONE = (
    "onnection closed",
    "onnection reset",
    "roken pipe",
    "onnection refused",
    "gloo/transport",
    "ncclRemoteError",
)
# What gloo says, its own path in the text, of a network interface that is not there (GLOO_SOCKET_IFNAME).
_OWN_FAULT = "Unable to find address"
# Printed where no rank gives a reason of its own.
_PEER_GONE_TEXT = (
    "SW631 a peer rank disappeared without an error (killed, possibly by the OOM killer, or its host is "
    "unreachable); check the launcher's log and `dmesg` on that host\n"
    "  SWITCHYARD_DEBUG=1 shows the traceback of this rank"
)


@dataclass(frozen=True, kw_only=True)
class ExitReporter:
    """Reports how the run of `context` ended. Rank 0 prints and writes; every rank returns the exit code."""

    context: RunContext

    def done(self, result: Mapping[str, Any]) -> ExitCode:
        """The run reached its last step; `result` goes into done.json, the only sign of success."""
        if self.context.rank == 0:
            assert self.context.folder is not None
            write_done(self.context.folder, {"attempt": self.context.attempt, **result})
        return ExitCode.OK

    def print_problems(self, problems: Sequence[Problem]) -> None:
        print("\n".join(map(str, self.context.start.locate(problems))), file=sys.stderr, flush=True)

    def invalid_input(self, problems: Sequence[Problem], *, are_printed: bool = False) -> ExitCode:
        """The input is wrong. `are_printed`: rank 0 has printed the Problems already."""
        if self.context.rank == 0 and not are_printed:
            self.print_problems(problems)
        located = self.context.start.locate(problems)
        self._write_failed(ExitCode.WRONG_INPUT, [problem.as_json() for problem in located])
        return ExitCode.WRONG_INPUT

    def stopped(self, how: str, *, after_step: int | None = None) -> ExitCode:
        """The run was asked to stop.

        Args:
            how: completes "stopped …".
            after_step: the last step that was trained; None: it may have been cut off within a step.
        """
        if self.context.rank == 0:
            step = self._newest_checkpoint()
            if step is None:
                saved = "; no checkpoint was written"
            elif step == after_step:
                saved = f", saved at step {step}"
            else:
                trained = "" if after_step is None else f" after step {after_step}"
                saved = f"{trained}; the last checkpoint is step {step}"
            print(f"stopped {how}{saved}", file=sys.stderr, flush=True)
        self._write_failed(ExitCode.STOPPED, [])
        return ExitCode.STOPPED

    def stop_now(self, how: str) -> NoReturn:
        """From a thread, while the main one may be stuck in a collective: says why and ends the process."""
        try:
            self.stopped(how)
        finally:
            os._exit(ExitCode.STOPPED)

    def fail_now(self, reason: str) -> NoReturn:
        """From a thread that the rank cannot run without, when it ends: says why and ends the process."""
        try:
            own = f"[{self.context.identity}] {reason}"
            print(own, file=sys.stderr, flush=True)
            self._first_reason(own, is_echo=False)
            self._write_failed(ExitCode.INTERNAL_ERROR, [{"found": own}])
        finally:
            os._exit(ExitCode.INTERNAL_ERROR)

    def failed(self, error: BaseException) -> ExitCode:
        """An error: of this rank, or of a peer, which this rank notices as a broken collective."""
        if isinstance(error, StrategyError):
            return self.invalid_input(error.problems)
        is_echo = _is_peer_loss(error)
        if is_echo and self.context.stop.asked is not None:
            return self.stopped(f"by {self.context.stop.asked}")  # as the peer was, which heard it first
        text = _PEER_GONE_TEXT if is_echo and not _wants_traceback() else _describe(error)
        own = f"[{self.context.identity}] {text}"
        reason = self._first_reason(own, is_echo=is_echo)
        if reason == own:
            print(own, file=sys.stderr, flush=True)
        self._write_failed(ExitCode.INTERNAL_ERROR, [{"found": reason}])
        return ExitCode.INTERNAL_ERROR

    def exit(self, code: ExitCode) -> NoReturn:
        """Ends the process, skipping atexit handlers: one may wait for a peer that failed."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _write_failed(self, code: ExitCode, problems: list[dict[str, object]]) -> None:
        """Writes failed.json on rank 0. A disk that does not take it does not change the exit code."""
        context, folder = self.context, self.context.folder
        if context.rank != 0 or folder is None:
            return
        try:
            # A start that failed must not take the folder from a run that may be alive, nor done.json from
            # one that is finished.
            if context.attempt is None and not may_be_running(folder) and not is_done(folder):
                context.attempt = claim(folder, {})
            if context.attempt is not None:
                write_failed(
                    folder,
                    code=code,
                    problems=problems,
                    checkpoint=self._newest_checkpoint(),
                    attempt=context.attempt,
                )
        except OSError as error:
            print(f"{folder}: failed.json could not be written: {error}", file=sys.stderr, flush=True)

    def _newest_checkpoint(self) -> int | None:
        """The last step this attempt saved or resumed from; before that, what older attempts left."""
        if self.context.checkpoint is not None or self.context.folder is None:
            return self.context.checkpoint
        return newest_step(self.context.folder / CHECKPOINTS_NAME)

    def _first_reason(self, own: str, *, is_echo: bool) -> str:
        """The first reason that any rank gave; an echo gives others time to be first."""
        # The store went with rank 0: it has given its reason, or was killed and its launcher says so.
        fallback = "rank 0 has ended" if is_echo else own
        store = self.context.store
        if store is None:
            return own
        answer: list[str] = []

        def ask() -> None:
            try:
                deadline = time.monotonic() + (ECHO_WAIT_S if is_echo else 0.0)
                while time.monotonic() < deadline and not store.check(["failure"]):
                    time.sleep(0.05)
                answer.append(store.compare_set("failure", "", own).decode())
            except Exception:  # whatever is wrong with the store, this rank still has to say something
                answer.append(fallback)

        # On a host that is cut off, a question to the store has no answer and no end.
        asking = threading.Thread(target=ask, name="first-reason", daemon=True)
        asking.start()
        asking.join(STORE_WAIT_S)
        return answer[0] if answer else fallback


def _describe(error: BaseException) -> str:
    if _wants_traceback():
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}\n  SWITCHYARD_DEBUG=1 shows the full traceback"


def _wants_traceback() -> bool:
    return bool(os.environ.get("SWITCHYARD_DEBUG"))


def _is_peer_loss(error: BaseException) -> bool:
    """Whether the error says no more than that another rank is gone."""
    import torch.distributed as dist  # loaded by now, unless its import is what failed

    if isinstance(error, (dist.DistNetworkError, ConnectionError)):
        return True
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in _PEER_GONE)
        and _OWN_FAULT not in text
    )
