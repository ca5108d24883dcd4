"""What follows from a verdict: an end with its code, or another attempt."""

import pytest

from launch.supervisor.decision import Decision, History, decide
from launch.supervisor.verdict import Cause, Verdict


def after(
    cause: Cause,
    reason: str = "why",
    *,
    history: History | None = None,
    is_asked: bool = False,
    lost: tuple[str, ...] = (),
    on_corruption: str = "stop",
) -> Decision:
    return decide(
        Verdict(cause=cause, reason=reason),
        history=history or History(),
        is_asked=is_asked,
        lost=lost,
        restarts_per_hour=4,
        on_corruption=on_corruption,
        now=10_000,
    )


@pytest.mark.parametrize(
    ("cause", "code"),
    [(Cause.DONE, 0), (Cause.DIVERGED, 1), (Cause.WRONG_INPUT, 2), (Cause.NO_MEETING, 3)],
)
def test_what_no_other_attempt_mends_ends_the_run(cause: Cause, code: int) -> None:
    assert after(cause).code == code


@pytest.mark.parametrize(
    "cause", [Cause.PROGRAM, Cause.HANG, Cause.RANK_LOST, Cause.HOST_LOST, Cause.STOPPED]
)
def test_what_another_attempt_may_mend_is_tried_again(cause: Cause) -> None:
    assert after(cause).code is None


def test_ranks_that_did_not_meet_because_a_host_is_lost_try_again() -> None:
    assert after(Cause.NO_MEETING, lost=("b",)).code is None


def test_the_same_error_twice_ends_the_run_another_error_does_not() -> None:
    first = Verdict(cause=Cause.PROGRAM, reason="[rank 1/4 a] ValueError: token 7 (a.py:1)")
    assert first.signature is not None
    history = History(errors=[first.signature])
    ended = after(Cause.PROGRAM, "[rank 2/4 b] ValueError: token 8 (a.py:1)", history=history)
    assert ended.code == 3
    assert "second time" in ended.text
    assert after(Cause.PROGRAM, "[rank 2/4 b] KeyError: 8 (a.py:1)", history=history).code is None


def test_restarts_of_the_last_hour_are_limited() -> None:
    assert after(Cause.RANK_LOST, history=History(restarts=[6_401] * 3 + [6_399])).code is None
    ended = after(Cause.RANK_LOST, history=History(restarts=[6_401] * 4))
    assert ended.code == 3
    assert "restarts_per_hour is 4" in ended.text


def test_who_was_asked_to_stop_makes_no_other_attempt() -> None:
    assert after(Cause.STOPPED, is_asked=True).code == 130
    assert after(Cause.DONE, is_asked=True).code == 0


def test_silent_corruption_ends_the_run_unless_hosts_are_to_be_replaced() -> None:
    ended = after(Cause.CORRUPTED, "copies differ")
    assert (ended.code, ended.text) == (3, "copies differ: runtime.on_corruption is stop")
    assert after(Cause.CORRUPTED, on_corruption="replace").code is None
    assert after(Cause.CORRUPTED, on_corruption="replace", is_asked=True).code == 130
