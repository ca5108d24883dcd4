"""Verdict on an attempt: how it ended, whose fault it was, and whether another one may follow."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from planner.exit_codes import ExitCode
from planner.run_holder import DONE_NAME, FAILED_NAME


class Cause(Enum):
    """Why an attempt ended. The value is how it is called in the journal."""

    DONE = "done"
    STOPPED = "stopped"  # on request: a signal to a rank or to its launcher
    DIVERGED = "diverged"
    WRONG_INPUT = "wrong input"
    NO_MEETING = "the ranks never met"
    PROGRAM = "an error of the program"
    HANG = "a hang"
    RANK_LOST = "a rank was killed"
    HOST_LOST = "a host was lost"


# None of these gets better by another attempt.
FINAL = (Cause.DONE, Cause.DIVERGED, Cause.WRONG_INPUT, Cause.NO_MEETING)
# Before the ranks have met: a taken port, an unknown name, nobody there (planner/errors/startup.yaml).
_NO_MEETING = ("SW611", "SW632", "SW633", "SW634", "SW635")
# A rank tells of another one that is gone, or of a collective that does not end: not its own fault.
_ECHOES = ("SW631", "SW636", "SW637")
_CODE = re.compile(r"\bSW\d{3}\b")
# What differs between two occurrences of the same error: ranks, hosts, addresses, numbers.
_RANK = re.compile(r"\[rank [^\]]*\]")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """cause, reason: for the journal. ranks: that failed, where it is known; () otherwise."""

    cause: Cause
    reason: str
    ranks: tuple[int, ...] = ()

    @property
    def signature(self) -> str:
        """Equal for two occurrences of the same error."""
        return _NUMBER.sub("#", _RANK.sub("[rank]", self.reason))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attempt left: the content of done.json or failed.json."""

    attempt: int
    code: int
    problems: Sequence[Mapping[str, Any]] = ()
    checkpoint: int | None = None

    @property
    def text(self) -> str:
        """The first line of each Problem."""
        lines = (str(problem.get("found") or "").partition("\n")[0] for problem in self.problems)
        return "; ".join(line for line in lines if line)


def read_outcome(run_folder: Path, *, after: int) -> Outcome | None:
    """The outcome of an attempt that is newer than attempt `after`; None where no complete one is there."""
    for name in (DONE_NAME, FAILED_NAME):
        try:
            content = json.loads((run_folder / name).read_bytes())
            attempt = int(content["attempt"])
            code = ExitCode.OK if name == DONE_NAME else int(content["code"])
            problems = list(content.get("problems", ()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
        if attempt > after and all(isinstance(problem, Mapping) for problem in problems):
            checkpoint = content.get("checkpoint")
            return Outcome(attempt=attempt, code=code, problems=problems, checkpoint=checkpoint)
    return None


def judge(outcome: Outcome | None, *, gone: Sequence[int] = (), exit_code: int | None = None) -> Verdict:
    """Of an attempt that has ended, or whose ranks are gone.

    Args:
        outcome: None where no rank could write one.
        gone: ranks whose processes disappeared without a word.
        exit_code: of the launcher.
    """
    ranks = tuple(sorted(gone))
    if outcome is None:
        if ranks:
            return Verdict(cause=Cause.RANK_LOST, reason=_killed(ranks), ranks=ranks)
        reason = f"the launcher ended with code {exit_code}, and no rank wrote how"
        return Verdict(cause=Cause.PROGRAM, reason=reason)
    if outcome.code == ExitCode.OK:
        return Verdict(cause=Cause.DONE, reason="done")
    text = outcome.text or f"exit code {outcome.code}"
    if outcome.code == ExitCode.NEGATIVE:
        return Verdict(cause=Cause.DIVERGED, reason=text)
    if outcome.code == ExitCode.WRONG_INPUT:
        return Verdict(cause=Cause.WRONG_INPUT, reason=text)
    if ranks:  # what the others say is what they saw of it
        return Verdict(cause=Cause.RANK_LOST, reason=_killed(ranks), ranks=ranks)
    if outcome.code == ExitCode.STOPPED:
        return Verdict(cause=Cause.STOPPED, reason="stopped by a signal to a rank")
    codes = [str(problem.get("code") or "") or _code_in(problem) for problem in outcome.problems]
    if any(code in _NO_MEETING for code in codes):
        return Verdict(cause=Cause.NO_MEETING, reason=text)
    if any(code in _ECHOES for code in codes):
        return Verdict(cause=Cause.RANK_LOST, reason=text)
    return Verdict(cause=Cause.PROGRAM, reason=text, ranks=_rank_in(text))


def _killed(ranks: Sequence[int]) -> str:
    who = ("ranks " if len(ranks) > 1 else "rank ") + ", ".join(map(str, ranks))
    return f"{who} ended without a reason (killed, or a fault of the hardware)"


def _code_in(problem: Mapping[str, Any]) -> str:
    found = _CODE.search(str(problem.get("found") or ""))
    return found[0] if found else ""


def _rank_in(text: str) -> tuple[int, ...]:
    found = re.search(r"\[rank (\d+)/", text)
    return (int(found[1]),) if found else ()
