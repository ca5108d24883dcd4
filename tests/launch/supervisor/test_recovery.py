"""A recovery's seconds, by part, from what is seen of the ranks; times by hand."""

from pathlib import Path

import pytest

from launch.supervisor.recovery import Recovery, RecoveryClock, newest_checkpoint
from planner.heartbeats import Heartbeat


def ranks(phase: str, *steps: int) -> dict[int, Heartbeat]:
    return {
        rank: Heartbeat(pid=1, attempt=2, phase=phase, step=step, beats=1, state="running")
        for rank, step in enumerate(steps)
    }


def clock(step: int) -> RecoveryClock:
    made = RecoveryClock(progress=100, verdict=103, step=step, saved=10)
    made.start(105)
    return made


def test_each_part_ends_where_the_next_begins() -> None:
    seen = clock(step=17)
    assert seen.observe({}, 2, 106) is None
    assert seen.observe(ranks("build", 0, 0), 2, 108) is None
    assert seen.observe(ranks("restore", 0, 0), 2, 112) is None
    assert seen.observe(ranks("first step", 11, 11), 2, 113) is None
    assert seen.observe(ranks("step", 16, 17), 2, 119) is None
    recovery = seen.observe(ranks("step", 17, 17), 2, 120)
    assert recovery == Recovery(detect_s=3, decide_s=2, start_s=7, load_s=1, replay_s=7, replayed_steps=6)
    assert recovery.total_s == 20
    assert recovery.restart_s == 13
    assert str(recovery) == (
        "recovered in 20.0 s: detect 3.0, decide 2.0, start 7.0, load 1.0, replay 7.0 (6 steps trained again)"
    )


def test_ranks_that_have_not_all_been_seen_are_not_there_yet() -> None:
    seen = clock(step=1)
    assert seen.observe(ranks("step", 9), 2, 110) is None
    assert seen.observe(ranks("step", 9, 9), 2, 111) is not None


def test_a_run_that_is_done_before_its_ranks_are_seen_again_has_no_recovery() -> None:
    assert clock(step=17).complete(130) is None


def test_a_run_that_is_done_within_a_look_has_recovered() -> None:
    seen = clock(step=17)
    seen.observe(ranks("first step", 11, 11), 2, 113)
    recovery = seen.complete(115)
    assert recovery is not None
    assert recovery.replay_s == 2


def test_a_second_loss_during_a_recovery_starts_its_launch_again() -> None:
    seen = clock(step=17)
    seen.observe(ranks("restore", 0, 0), 2, 112)
    seen.start(120)
    recovery = seen.observe(ranks("step", 18, 18), 2, 130)
    assert recovery is not None
    assert recovery.start_s == 10


@pytest.mark.parametrize(("content", "step"), [("step-00000040\n", 40), ("", 0), ("gone", 0), (None, 0)])
def test_the_newest_checkpoint_is_the_one_that_latest_names(
    tmp_path: Path, content: str | None, step: int
) -> None:
    (tmp_path / "checkpoints").mkdir()
    if content is not None:
        (tmp_path / "checkpoints" / "latest").write_text(content)
    assert newest_checkpoint(tmp_path) == step
