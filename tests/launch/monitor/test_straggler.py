"""The straggler: three slow windows, own work only, within its stage."""

from launch.monitor.straggler import find_slowest
from launch.run_folder.records import RankRecord

STAGE = (0, 1, 2, 3)


def record(rank: int, step: int, own_s: float, step_s: float = 1.0) -> RankRecord:
    phases_s = {"compute": own_s, "all_to_all": step_s - own_s}
    return RankRecord(rank=rank, step=step, attempt=1, phases_s=phases_s, memory_bytes=None, gpu={})


def steps(num_steps, own_s):
    """own_s: of a rank in a step."""
    return {
        step: {rank: record(rank, step, own_s(rank, step)) for rank in STAGE}
        for step in range(1, num_steps + 1)
    }


def slow(rank: int, step: int) -> float:
    return 0.6 if rank == 2 else 0.4


def test_a_rank_that_is_slow_in_three_windows_is_a_straggler():
    found = find_slowest(steps(30, slow), [STAGE])
    assert (found.rank, round(found.ratio, 6), found.is_straggler) == (2, 1.5, True)


def test_two_windows_are_too_few():
    found = find_slowest(steps(29, slow), [STAGE])
    assert (found.rank, found.is_straggler) == (2, False)


def test_a_window_in_which_it_was_not_slow_counts_against_it():
    found = find_slowest(steps(30, lambda rank, step: slow(rank, step) if step > 10 else 0.4), [STAGE])
    assert (found.rank, found.is_straggler) == (2, False)


def test_one_slow_step_is_no_slow_window():
    found = find_slowest(steps(30, lambda rank, step: 5.0 if rank == 1 and step % 10 == 0 else 0.4), [STAGE])
    assert found.ratio == 1.0


def test_waiting_for_others_is_not_work():
    """All ranks have the same step; the one that waits least is the slow one, not those that wait."""
    found = find_slowest(steps(30, slow), [STAGE])
    assert found.own_s == 0.6


def test_stages_are_not_compared_with_each_other():
    own = {0: 0.1, 1: 0.1, 2: 0.8, 3: 0.8}
    found = find_slowest(steps(30, lambda rank, step: own[rank]), [(0, 1), (2, 3)])
    assert (found.ratio, found.is_straggler) == (1.0, False)


def test_nobody_is_slowest_alone_or_before_a_window_is_full():
    assert find_slowest(steps(30, slow), [(2,)]) is None
    assert find_slowest(steps(9, slow), [STAGE]) is None
    assert find_slowest({}, [STAGE]) is None
