"""When ranks count as hanging, and which of them is the one that failed."""

from launch.supervisor.hang_watch import HangWatch, find_failed_ranks
from planner.heartbeats import Heartbeat, Wait


def beat(
    phase: str = "step",
    step: int = 1,
    beats: int = 0,
    *,
    state: str = "running",
    wait: tuple[str, int] | None = None,
) -> Heartbeat:
    waits_in = None if wait is None else Wait(group=wait[0], operation="all_reduce", number=wait[1])
    return Heartbeat(pid=1, attempt=1, phase=phase, step=step, beats=beats, state=state, waits_in=waits_in)


def watch() -> HangWatch:
    return HangWatch(hang_timeout_s=60, first_timeout_s=600)


def test_the_first_of_a_phase_may_take_the_launch_timeout() -> None:
    hangs = watch()
    assert hangs.observe({0: beat()}, 0) is None
    assert hangs.observe({0: beat()}, 600) is None
    stall = hangs.observe({0: beat()}, 601)
    assert stall is not None
    assert (stall.ranks, stall.phase, stall.step, stall.limit_s) == ((0,), "step", 1, 600)


def test_later_ones_may_take_the_hang_timeout() -> None:
    hangs = watch()
    hangs.observe({0: beat(step=1)}, 0)
    hangs.observe({0: beat(step=2)}, 2)
    assert hangs.observe({0: beat(step=2)}, 62) is None
    assert hangs.observe({0: beat(step=2)}, 62.1) is not None


def test_a_slow_phase_may_take_five_times_its_longest() -> None:
    hangs = watch()
    hangs.observe({0: beat("save", 1)}, 0)
    hangs.observe({0: beat("step", 2)}, 20)
    hangs.observe({0: beat("save", 2)}, 21)
    assert hangs.observe({0: beat("save", 2)}, 21 + 100) is None
    assert hangs.observe({0: beat("save", 2)}, 21 + 101) is not None


def test_a_first_phase_does_not_count_for_another() -> None:
    # A first step of 400 s (kernels are compiled) allows a second no more than the hang timeout.
    hangs = watch()
    hangs.observe({0: beat("first step", 1)}, 0)
    hangs.observe({0: beat("step", 2)}, 400)
    hangs.observe({0: beat("step", 3)}, 401)
    assert hangs.observe({0: beat("step", 3)}, 462) is not None


def test_a_rank_that_gets_on_within_a_step_does_not_hang() -> None:
    hangs = watch()
    hangs.observe({0: beat(step=1)}, 0)
    hangs.observe({0: beat(step=2)}, 1)
    for second in range(0, 500, 50):
        assert hangs.observe({0: beat(step=2, beats=second)}, 1 + second) is None


def test_one_rank_that_stands_still_is_enough() -> None:
    hangs = watch()
    hangs.observe({0: beat(step=1), 1: beat(step=1)}, 0)
    hangs.observe({0: beat(step=2), 1: beat(step=2)}, 1)
    stall = hangs.observe({0: beat(step=2, beats=9), 1: beat(step=2)}, 70)
    assert stall is not None
    assert stall.ranks == (1,)


def test_a_rank_that_has_ended_does_not_hang() -> None:
    hangs = watch()
    hangs.observe({0: beat("end"), 1: beat("end")}, 0)
    assert hangs.observe({}, 10_000) is None


def test_the_rank_that_is_gone_failed_not_those_that_wait() -> None:
    ranks = {0: beat(wait=("world", 3)), 1: beat(state="gone"), 2: beat(state="stopped")}
    assert find_failed_ranks(ranks) == (1,)


def test_the_rank_that_is_stopped_failed() -> None:
    assert find_failed_ranks({0: beat(), 1: beat(state="stopped"), 2: beat(wait=("world", 3))}) == (1,)


def test_the_rank_in_no_collective_failed() -> None:
    ranks = {0: beat(wait=("world", 3)), 1: beat(wait=("ep 0-3", 8)), 2: beat(), 3: beat(wait=("world", 3))}
    assert find_failed_ranks(ranks) == (2,)


def test_the_rank_in_an_earlier_collective_failed() -> None:
    ranks = {0: beat(wait=("world", 4)), 1: beat(wait=("world", 3)), 2: beat(wait=("tp 2-3", 1))}
    assert find_failed_ranks(ranks) == (1,)


def test_where_all_wait_alike_none_is_named() -> None:
    assert find_failed_ranks({0: beat(wait=("world", 4)), 1: beat(wait=("world", 4))}) == ()
    assert find_failed_ranks({0: beat(), 1: beat()}) == ()
