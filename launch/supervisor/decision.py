"""Decision after an attempt: whether another one follows, and which hosts leave before it."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.supervisor.verdict import FINAL, Cause, Verdict
from planner.exit_codes import ExitCode

HOUR_S = 3600.0
_CODES = {
    Cause.DIVERGED: ExitCode.NEGATIVE,
    Cause.WRONG_INPUT: ExitCode.WRONG_INPUT,
    Cause.NO_MEETING: ExitCode.INTERNAL_ERROR,
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """code: the run ends with it; None: another attempt follows. text: why, in plain words."""

    code: ExitCode | None
    text: str


@dataclass(frozen=True, kw_only=True)
class History:
    """Of the attempts before. errors: the signatures of their verdicts. restarts: their times."""

    errors: Sequence[str] = ()
    restarts: Sequence[float] = ()


def decide(
    verdict: Verdict,
    *,
    history: History,
    is_asked: bool,
    lost: Sequence[str],
    restarts_per_hour: int,
    on_corruption: str,
    now: float,
) -> Decision:
    """
    Args:
        on_corruption: runtime.on_corruption.
        is_asked: whether the supervisor was asked to stop.
        lost: hosts that do not answer: then it is not the program, or the start, that is at fault.
        now: seconds, of the same clock as the history.
    """
    if verdict.cause is Cause.DONE:
        return Decision(code=ExitCode.OK, text="done")
    if verdict.cause in FINAL and not lost:
        text = f"{verdict.reason}: {_WHY_FINAL[verdict.cause]}"
        return Decision(code=_CODES[verdict.cause], text=text)
    if verdict.cause is Cause.CORRUPTED and on_corruption == "stop":
        text = f"{verdict.reason}: runtime.on_corruption is stop"
        return Decision(code=ExitCode.INTERNAL_ERROR, text=text)
    if is_asked:
        return Decision(code=ExitCode.STOPPED, text="stopped on request")
    if verdict.signature is not None and not lost and verdict.signature in history.errors:
        return Decision(
            code=ExitCode.INTERNAL_ERROR,
            text=f"the same error a second time: {verdict.reason}; another attempt would only cost GPU hours",
        )
    recent = sum(now - time < HOUR_S for time in history.restarts)
    if recent >= restarts_per_hour:
        return Decision(
            code=ExitCode.INTERNAL_ERROR,
            text=f"{recent} restarts within an hour, and operate.restarts_per_hour is {restarts_per_hour}: "
            f"{verdict.reason}",
        )
    return Decision(code=None, text=verdict.reason)


_WHY_FINAL = {
    Cause.DIVERGED: "the same attempt again would diverge again",
    Cause.WRONG_INPUT: "it has to be corrected first",
    Cause.NO_MEETING: "another attempt would meet the same, so none is made",
}
