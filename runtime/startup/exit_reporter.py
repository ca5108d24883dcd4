"""Exit of a run: exit code, done.json or failed.json, and one printed reason (failure_reason.py)."""

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from planner import Problem, StrategyError
from planner.exit_codes import ExitCode
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.commit import newest_step
from runtime.process.launcher_watch import why_launch_ends_ranks
from runtime.process.missing_module import is_load_failure
from runtime.startup.context import RunContext
from runtime.startup.corruption_report import corruption_json, corruption_problem
from runtime.startup.divergence import divergence_json, divergence_problem
from runtime.startup.error_text import describe, is_peer_loss, missing_problem, wants_traceback
from runtime.startup.failure_reason import ECHO_WAIT_S, describe_stall, first_reason, left_by_rank_0
from runtime.startup.meeting import CannotMeet
from runtime.startup.outcome_files import claim_failed_start, write_done, write_failed
from runtime.training.corruption import Corrupted
from runtime.training.loss_guard import Diverged

_STALL_TEXT = (
    "SW636 a collective did not end within launch.timeout ({timeout_s} s): {stall}\n"
    "  it hangs, was stopped, or is slower than that: see its log, and `py-spy dump --pid PID` on that host"
)
_RANK_0_GONE_TEXT = (
    "SW637 rank 0 on {host} ended without a reason (killed, possibly by the OOM killer, or its host is "
    "unreachable); check the launcher's log and `dmesg` on that host\n"
    "  the run resumes from its last checkpoint when it is started again"
)
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
    _stop: "_Stop" = field(default_factory=lambda: _Stop(), init=False)

    def done(self, result: Mapping[str, Any]) -> ExitCode:
        """The run reached its last step; `result` goes into done.json, the only sign of success.

        Without it rank 0 has no success to report: the run belongs to a newer attempt.
        """
        if self.context.rank > 0:
            return ExitCode.OK
        assert self.context.folder is not None
        is_written = write_done(self.context.folder, {"attempt": self.context.attempt, **result})
        return ExitCode.OK if is_written else ExitCode.INTERNAL_ERROR

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

        The main thread and the one that takes signals may come here at once: the first says it. Where
        launch.sh ends the ranks because it has lost a host, that is the reason, and no stop.

        Args:
            how: completes "stopped …".
            after_step: the last step that was trained; None: it may have been cut off within a step.
        """
        with self._stop.lock:
            if self._stop.code is None:
                self._stop.code = self._tell_stop(how, after_step)
            return self._stop.code

    def _tell_stop(self, how: str, after_step: int | None) -> ExitCode:
        problem = why_launch_ends_ranks()
        if problem is not None:
            if self.context.rank == 0:
                print(problem, file=sys.stderr, flush=True)
            self._write_failed(ExitCode.INTERNAL_ERROR, [problem.as_json()])
            return ExitCode.INTERNAL_ERROR
        step = self._newest_checkpoint()
        if step is None:
            saved = "; no checkpoint was written"
        elif step == after_step:
            saved = f", saved at step {step}"
        else:
            trained = "" if after_step is None else f" after step {after_step}"
            saved = f"{trained}; the last checkpoint is step {step}"
        text = f"stopped {how}{saved}"
        if self.context.rank == 0:
            print(text, file=sys.stderr, flush=True)
        self._write_failed(ExitCode.STOPPED, [], stopped=text)
        return ExitCode.STOPPED

    def stop_now(self, how: str) -> NoReturn:
        """From a thread, while the main one may be stuck in a collective: says why and ends the process."""
        code = ExitCode.STOPPED
        try:
            code = self.stopped(how)
        finally:
            self._end(code)

    def fail_now(self, reason: str) -> NoReturn:
        """From a thread that the rank cannot run without, when it ends: says why and ends the process."""
        try:
            own = f"[{self.context.identity}] {reason}"
            print(own, file=sys.stderr, flush=True)
            self._first_reason(own, is_echo=False)
            self._write_failed(ExitCode.INTERNAL_ERROR, [{"found": own}])
        finally:
            self._end(ExitCode.INTERNAL_ERROR)

    def _end(self, code: ExitCode) -> NoReturn:
        """Without its pulse, by which the supervisor would take the rank for one that was killed."""
        try:
            if self.context.pulse is not None:
                self.context.pulse.close()
        finally:
            os._exit(code)

    def failed(self, error: BaseException) -> ExitCode:
        """An error: of this rank, or of a peer, which this rank notices as a broken collective."""
        if isinstance(error, StrategyError):
            return self.invalid_input(error.problems)
        if isinstance(error, CannotMeet):
            return self._cannot_meet(error.problem)
        if isinstance(error, Diverged):
            return self._diverged(error)
        if isinstance(error, Corrupted):
            return self._corrupted(error)
        if is_load_failure(error) and self.context.store is None:
            if wants_traceback():
                print(describe(error), file=sys.stderr, flush=True)
            return self._cannot_meet(missing_problem(error))
        is_echo = is_peer_loss(error)
        if is_echo and self.context.stop.asked is not None:
            return self.stopped(f"by {self.context.stop.asked}")  # as the peer was, which heard it first
        own = f"[{self.context.identity}] {self._text_of(error, is_echo=is_echo)}"
        reason = self._first_reason(own, is_echo=is_echo)
        if reason.is_told_here:
            print(reason.text, file=sys.stderr, flush=True)
        self._write_failed(
            ExitCode.INTERNAL_ERROR, [{"found": reason.text}], is_for_rank_0=reason.is_written_here
        )
        return ExitCode.INTERNAL_ERROR

    def _diverged(self, error: Diverged) -> ExitCode:
        """All ranks know, from equal numbers. The answer to the training is no: it is not to be repeated."""
        if self.context.rank == 0:
            assert self.context.folder is not None, "a plan names its folder"
            problem = divergence_problem(error, self.context.plan, self.context.folder)
            print(problem, file=sys.stderr, flush=True)
            self._write_failed(ExitCode.NEGATIVE, [divergence_json(error, problem)])
        return ExitCode.NEGATIVE

    def _corrupted(self, error: Corrupted) -> ExitCode:
        """All ranks know, from the same findings. Another attempt may go well, elsewhere."""
        if self.context.rank == 0:
            plan = self.context.plan
            problem = corruption_problem(error, plan, self._newest_checkpoint())
            print(problem, file=sys.stderr, flush=True)
            self._write_failed(ExitCode.INTERNAL_ERROR, [corruption_json(error, problem, plan)])
        return ExitCode.INTERNAL_ERROR

    def _cannot_meet(self, problem: Problem) -> ExitCode:
        """The ranks have not met: no peer is gone, and all ranks of a host see the same."""
        if self.context.rank == 0 or self._speaks_for_host():
            print(problem, file=sys.stderr, flush=True)
        self._write_failed(ExitCode.INTERNAL_ERROR, [problem.as_json()])
        return ExitCode.INTERNAL_ERROR

    def exit(self, code: ExitCode) -> NoReturn:
        """Ends the process, skipping atexit handlers: one may wait for a peer that failed."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _write_failed(
        self,
        code: ExitCode,
        problems: list[dict[str, object]],
        *,
        stopped: str | None = None,
        is_for_rank_0: bool = False,
    ) -> None:
        """Writes failed.json on rank 0. A disk that does not take it does not change the exit code.

        Args:
            stopped: what was said of a requested stop.
            is_for_rank_0: this rank writes it, once the run is claimed: rank 0 was killed.
        """
        context, folder = self.context, self.context.folder
        if folder is None or (context.rank != 0 and not (is_for_rank_0 and context.attempt)):
            return
        try:
            if context.attempt is None:
                context.attempt = claim_failed_start(folder)
            if context.attempt is not None:
                write_failed(
                    folder,
                    code=code,
                    problems=problems,
                    checkpoint=self._newest_checkpoint(),
                    attempt=context.attempt,
                    stopped=stopped,
                )
        except OSError as error:
            print(f"{folder}: failed.json could not be written: {error}", file=sys.stderr, flush=True)

    def _newest_checkpoint(self) -> int | None:
        """The last step this attempt saved or resumed from; before that, what older attempts left."""
        if self.context.checkpoint is not None or self.context.folder is None:
            return self.context.checkpoint
        return newest_step(self.context.folder / CHECKPOINTS_NAME)

    def _first_reason(self, own: str, *, is_echo: bool) -> "_Reason":
        """The reason that all ranks repeat, and whether this rank is the one to tell it."""
        context = self.context
        if context.store is None:
            return _Reason(own, is_told_here=True)
        reason = first_reason(context.store, own, wait_s=ECHO_WAIT_S if is_echo else 0.0)
        if reason is not None:
            return _Reason(reason, is_told_here=reason == own)
        if not is_echo:
            return _Reason(own, is_told_here=True)
        # The store went with rank 0: it has given its reason, or was killed.
        is_left = left_by_rank_0(context.folder, context.attempt, wait_s=ECHO_WAIT_S)
        text = f"[{context.identity}] {_RANK_0_GONE_TEXT.format(host=self._host_of_rank_0())}"
        speaks = self._speaks_for_host() and not is_left
        return _Reason(text, is_told_here=speaks, is_written_here=speaks)

    def _speaks_for_host(self) -> bool:
        """Whether this rank tells what every rank of its host sees, where rank 0 cannot."""
        return self.context.identity.local_rank == 0 or self.context.rank == 1

    def _host_of_rank_0(self) -> str:
        plan = self.context.start.plan
        return "the first host" if plan is None else plan.host_of(0).name

    def _text_of(self, error: BaseException, *, is_echo: bool) -> str:
        context = self.context
        if is_load_failure(error) and not wants_traceback():
            return str(missing_problem(error))
        if wants_traceback() or not is_echo:
            return describe(error)
        if "imed out" in str(error) and context.store is not None and context.start.plan is not None:
            stall = describe_stall(context.store, context.plan, context.rank)
            timeout_s = context.plan.strategy.launch.timeout
            return _STALL_TEXT.format(stall=stall, timeout_s=f"{timeout_s:g}")
        return _PEER_GONE_TEXT


@dataclass
class _Stop:
    """The code with which this process was stopped, once it has said so."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    code: ExitCode | None = None


@dataclass(frozen=True)
class _Reason:
    text: str
    is_told_here: bool
    is_written_here: bool = False  # although this is not rank 0
