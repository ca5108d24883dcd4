"""How a run ends: one readable reason, told once, and the file that programs look for.

When one rank fails its peers fail too, in a broken collective. The store keeps the first real reason; an
error that only says that a peer is gone waits a moment for it and stays silent when it comes.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from planner import Problem, StrategyError
from runtime.checkpoint.commit import newest_step
from runtime.process.identity import Identity
from runtime.startup.attempts import claim, is_done, may_be_running, write_done, write_failed

DONE, WRONG_INPUT, BROKE, STOPPED = 0, 2, 3, 130
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
# What is told of it where no rank gives a reason of its own.
_PEER_GONE_TEXT = (
    "another rank is gone without a word: killed, perhaps for want of memory, or cut off; "
    "see what its launcher and its host say\n  SWITCHYARD_DEBUG=1 shows how it was noticed"
)


@dataclass(kw_only=True)
class Ending:
    """One rank's way out. Filled as the run comes to know its store, folder, attempt and checkpoints.

    locate: gives Problems the file and line of their keys, where those are known.
    """

    identity: Identity
    locate: Callable[[Sequence[Problem]], Sequence[Problem]] = tuple
    store: dist.Store | None = None
    run_folder: Path | None = None
    attempt: int | None = None
    checkpoint: int | None = None

    def done(self, result: dict[str, Any]) -> int:
        """The run reached its last step; `result` goes into done.json, the only sign of success."""
        if self.identity.rank == 0:
            write_done(self.run_folder, {"attempt": self.attempt, **result})
        return DONE

    def tell(self, problems: Sequence[Problem]) -> None:
        print("\n".join(map(str, self.locate(problems))), file=sys.stderr, flush=True)

    def wrong(self, problems: Sequence[Problem], *, told: bool = False) -> int:
        """The input is wrong. `told`: the Problems were printed already."""
        if self.identity.rank == 0 and not told:
            self.tell(problems)
        self._write_failed(WRONG_INPUT, [problem.as_json() for problem in self.locate(problems)])
        return WRONG_INPUT

    def stopped(self, reason: str) -> int:
        if self.identity.rank == 0:
            step = self._newest_checkpoint()
            saved = "nothing was saved" if step is None else f"the last checkpoint is step {step}"
            print(f"stopped: {reason}; {saved}", file=sys.stderr, flush=True)
        self._write_failed(STOPPED, [])
        return STOPPED

    def stop_now(self, reason: str) -> NoReturn:
        """From a thread, while the main one may be stuck in a collective: says why and ends the process."""
        try:
            self.stopped(reason)
        finally:
            os._exit(STOPPED)

    def failed(self, error: BaseException) -> int:
        """Something broke: on this rank, or on a peer, which this rank notices as a broken collective."""
        if isinstance(error, StrategyError):
            return self.wrong(error.problems)
        is_echo = _is_peer_loss(error)
        told = _PEER_GONE_TEXT if is_echo and not _wants_traceback() else self._describe(error)
        own = f"[{self.identity}] {told}"
        reason = self._first_reason(own, is_echo=is_echo)
        if reason == own:
            print(own, file=sys.stderr, flush=True)
        self._write_failed(BROKE, [{"found": reason}])
        return BROKE

    def leave(self, code: int) -> NoReturn:
        """Ends without the interpreter's farewell: an exit handler may wait for a peer that failed."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _write_failed(self, code: int, problems: list[dict[str, object]]) -> None:
        """Rank 0's word to programs. A disk that does not take it changes nothing about how the run ended."""
        folder = self.run_folder
        if self.identity.rank != 0 or folder is None:
            return
        try:
            # A start that came to nothing must not take the folder from a run that may be alive, nor the
            # sign of success from one that is finished.
            if self.attempt is None and not may_be_running(folder) and not is_done(folder):
                self.attempt = claim(folder, {})
            if self.attempt is not None:
                write_failed(
                    folder,
                    code=code,
                    problems=problems,
                    checkpoint=self._newest_checkpoint(),
                    attempt=self.attempt,
                )
        except OSError as error:
            print(f"{folder}: failed.json could not be written: {error}", file=sys.stderr, flush=True)

    def _newest_checkpoint(self) -> int | None:
        """The last step this attempt saved or went on from; before that, what older attempts left."""
        if self.checkpoint is not None or self.run_folder is None:
            return self.checkpoint
        return newest_step(self.run_folder / "checkpoints")

    def _describe(self, error: BaseException) -> str:
        if _wants_traceback():
            return "".join(traceback.format_exception(error)).rstrip()
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        return f"{type(error).__name__}: {error}{place}\n  SWITCHYARD_DEBUG=1 shows the whole traceback"

    def _first_reason(self, own: str, *, is_echo: bool) -> str:
        """The first reason that any rank gave; an echo gives others time to be first."""
        # The store went with rank 0: it has spoken, or was killed and its launcher says so.
        fallback = "rank 0 is gone" if is_echo else own
        store = self.store
        if store is None:
            return own
        answer: list[str] = []

        def ask() -> None:
            try:
                deadline = time.monotonic() + (ECHO_WAIT_S if is_echo else 0.0)
                while time.monotonic() < deadline and not store.check(["failure"]):
                    time.sleep(0.05)
                answer.append(store.compare_set("failure", "", own).decode())
            except RuntimeError:
                answer.append(fallback)

        # On a host that is cut off, a question to the store has no answer and no end.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(STORE_WAIT_S)
        return answer[0] if answer else fallback


def _wants_traceback() -> bool:
    return bool(os.environ.get("SWITCHYARD_DEBUG"))


def _is_peer_loss(error: BaseException) -> bool:
    """Whether the error says no more than that another rank is gone."""
    if isinstance(error, (dist.DistNetworkError, ConnectionError)):
        return True
    said = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(sign in said for sign in _PEER_GONE)
        and _OWN_FAULT not in said
    )
