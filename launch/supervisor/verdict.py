"""Verdict on an attempt: how it ended, whose fault it was, and whether another one may follow."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from planner.exit_codes import ExitCode
from planner.files import read_file
from planner.run_holder import DONE_NAME, FAILED_NAME


class Cause(Enum):
    """Why an attempt ended. The value is how it is called in the journal."""

    DONE = "done"
    STOPPED = "stopped"  # on request: a signal to a rank or to its launcher
    DIVERGED = "diverged"
    WRONG_INPUT = "wrong input"
    NO_MEETING = "the ranks never met"
    PROGRAM = "an error of the program"
    CORRUPTED = "silent corruption"
    HANG = "a hang"
    RANK_LOST = "a rank was killed"
    HOST_LOST = "a host was lost"


# None of these gets better by another attempt.
FINAL = (Cause.DONE, Cause.DIVERGED, Cause.WRONG_INPUT, Cause.NO_MEETING)
# Before the ranks have met: nobody there, a taken port, an unknown name, other secrets, a missing package
# (planner/errors/startup.yaml), or a program that starts them failed (launch.yaml).
_NO_MEETING = {"SW446", "SW608", "SW611", "SW632", "SW633", "SW634", "SW638"}
# All ranks tell of the same: copies that differ, or a micro-batch that was computed twice.
_CORRUPTION = {"SW902", "SW908"}
# A rank or launch.sh tells of another one that is gone.
_ECHOES = {"SW445", "SW447", "SW631", "SW637"}
# A rank tells of a collective that did not end within launch.timeout: so long the first of a phase may take.
_STALLED = "SW636"
# The hosts of an SW636 (runtime/startup/failure_reason.py).
_ABSENT = re.compile(r"\branks? [\d,-]+ on (.+?) did not take part")
# The host of an SW445 (launch/launcher_output.py).
_HOST = re.compile(r"\bthe (?:ranks of|connection to) (\S+) (?:ended|was lost)")
_CODE = re.compile(r"\bSW\d{3}\b")
# What differs between two occurrences of the same error: ranks, hosts, addresses, numbers.
_RANK = re.compile(r"\[rank [^\]]*\]")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """cause, reason: for the journal. ranks, hosts: that failed, where it is known; () otherwise.

    step: at which a rank was lost, where it is known. has_met: whether the ranks had met before.
    """

    cause: Cause
    reason: str
    ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    step: int | None = None
    has_met: bool = True

    @property
    def signature(self) -> str | None:
        """Equal for two occurrences of the same error; None where a second one says nothing of the program.

        A rank that is lost twice at the same step, on whichever host, is one: a program may end by a fault of
        memory instead of an exception. So is a start that fails twice in the same way.
        """
        if self.cause is Cause.RANK_LOST and self.has_met:
            return None if self.step is None else f"ranks {self.ranks} lost at step {self.step}"
        if self.cause not in (Cause.PROGRAM, Cause.RANK_LOST):
            return None
        text = self.reason
        for host in self.hosts:
            text = text.replace(host, "HOST")
        return _NUMBER.sub("#", _RANK.sub("[rank]", text))


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
            content = json.loads(read_file(run_folder / name))
            attempt = int(content["attempt"])
            code = ExitCode.OK if name == DONE_NAME else int(content["code"])
            problems = list(content.get("problems", ()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        if attempt > after and all(isinstance(problem, Mapping) for problem in problems):
            checkpoint = content.get("checkpoint")
            return Outcome(attempt=attempt, code=code, problems=problems, checkpoint=checkpoint)
    return None


def judge(
    outcome: Outcome | None,
    *,
    gone: Sequence[int] = (),
    exit_code: int | None = None,
    has_met: bool = True,
    step: int | None = None,
) -> Verdict:
    """Of an attempt that has ended, or whose ranks are gone.

    Args:
        outcome: None where no rank could write one.
        gone: ranks whose processes disappeared without a word.
        exit_code: of the launcher.
        has_met: whether a rank was seen at more than its start.
        step: the highest that a rank was seen in; None before the first.
    """
    ranks = tuple(sorted(gone))
    killed = Verdict(
        cause=Cause.RANK_LOST, reason=_killed(ranks), ranks=ranks, has_met=has_met, step=step or None
    )
    if outcome is None:
        reason = f"the launcher ended with code {exit_code}, and no rank wrote how"
        return killed if ranks else Verdict(cause=Cause.PROGRAM, reason=reason, has_met=has_met)
    if outcome.code == ExitCode.OK:
        return Verdict(cause=Cause.DONE, reason="done")
    text = outcome.text or f"exit code {outcome.code}"
    if outcome.code == ExitCode.NEGATIVE:
        return Verdict(cause=Cause.DIVERGED, reason=text)
    if outcome.code == ExitCode.WRONG_INPUT:
        return Verdict(cause=Cause.WRONG_INPUT, reason=text)
    codes = {code for problem in outcome.problems for code in _codes_of(problem)}
    if codes & _CORRUPTION:
        return Verdict(cause=Cause.CORRUPTED, reason=text, hosts=_named_hosts(outcome.problems))
    gave_reason = not codes & {*_ECHOES, _STALLED} and set(_rank_in(text)) & set(ranks)
    if ranks and not gave_reason:  # what the others say is what they saw of it
        return killed
    if outcome.code == ExitCode.STOPPED:
        return Verdict(cause=Cause.STOPPED, reason="stopped by a signal to a rank")
    if codes & _NO_MEETING and not has_met:
        return Verdict(cause=Cause.NO_MEETING, reason=text)
    if _STALLED in codes:
        absent = _ABSENT.search(text)
        hosts = tuple(absent[1].split(", ")) if absent else ()
        return Verdict(cause=Cause.HANG, reason=text, hosts=hosts, has_met=has_met)
    if codes & _ECHOES:
        hosts = tuple(dict.fromkeys(_HOST.findall(text))) if "SW445" in codes else ()
        return Verdict(cause=Cause.RANK_LOST, reason=text, hosts=hosts, has_met=has_met)
    return Verdict(cause=Cause.PROGRAM, reason=text, ranks=_rank_in(text), has_met=has_met)


def _killed(ranks: Sequence[int]) -> str:
    who = ("ranks " if len(ranks) > 1 else "rank ") + ", ".join(map(str, ranks))
    return f"{who} ended without a reason (killed, or a fault of the hardware)"


def _codes_of(problem: Mapping[str, Any]) -> tuple[str, ...]:
    """Its own code; a rank's error has it in the text."""
    own = problem.get("code")
    return (str(own),) if own else tuple(_CODE.findall(str(problem.get("found") or "")))


def _named_hosts(problems: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of Problems that name hosts beside their text (runtime/startup/corruption_report.py)."""
    lists = [problem.get("hosts") for problem in problems]
    names = [name for found in lists if isinstance(found, list) for name in found if isinstance(name, str)]
    return tuple(dict.fromkeys(names))


def _rank_in(text: str) -> tuple[int, ...]:
    found = re.search(r"\[rank (\d+)/", text)
    return (int(found[1]),) if found else ()
