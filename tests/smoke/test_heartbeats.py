"""Heartbeats of a run that trains: a stopped rank is seen, and in which collective the other waits."""

import signal
import time
from pathlib import Path

import pytest

from planner.heartbeats import Heartbeat, read_heartbeats
from tests.support.launching import Launch


@pytest.fixture(autouse=True)
def _no_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As other tests leave it (tests/support/ranks.py); the ranks of a launch have their own setting."""
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "0")


@pytest.mark.slow
def test_a_stopped_rank_is_seen_and_the_other_waits_in_a_collective(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.start("training.steps=100000")
    launch.wait_for_step(3, timeout=240)
    _, stopped = launch.ranks()
    stopped.send_signal(signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 60
        while (ranks := read_heartbeats(launch.run)) and not _shows(ranks):
            assert time.monotonic() < deadline, ranks
            time.sleep(0.2)
    finally:
        stopped.send_signal(signal.SIGCONT)
    assert ranks[1].pid == stopped.pid
    assert ranks[0].attempt == ranks[1].attempt == 1
    assert ranks[0].step >= 3
    launch.signal_ranks(signal.SIGTERM)
    launch.finish()
    assert launch.read("failed.json")["code"] == 130


def _shows(ranks: dict[int, Heartbeat]) -> bool:
    return set(ranks) == {0, 1} and ranks[1].state == "stopped" and ranks[0].waits_in is not None
