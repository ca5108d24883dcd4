"""`python -m launch run` for real, on this host: rank 1 is killed or stopped; the curve is the same."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from planner.heartbeats import read_heartbeats
from tests.support.launching import Launch

STEPS = "training.steps=60"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    launch = Launch(tmp_path_factory.mktemp("unbroken"))
    code, output = launch.train(STEPS)
    assert code == 0, output
    return launch


def supervised(launch: Launch, disturb: Callable[[psutil.Process], object]) -> list[str]:
    """Trains, disturbs rank 1 at step 5, waits for the end; the journal's texts."""
    command = [sys.executable, "-m", "launch", "run", str(launch.strategy), STEPS]
    launch.start_command([*command, "operate.hang_timeout=5 s"])
    try:
        launch.wait_for_step(5, timeout=240)
        disturb(psutil.Process(read_heartbeats(launch.run)[1].pid))
        code, output = launch.finish(240)
    finally:
        left = launch.processes()
        for process in left:
            process.kill()
    assert code == 0, output
    assert "Traceback" not in output
    assert not left
    return [line["text"] for line in _journal(launch)]


def _journal(launch: Launch) -> list[dict[str, str]]:
    return [json.loads(line) for line in (launch.run / "journal.jsonl").read_text().splitlines()]


def test_after_a_kill_the_run_ends_with_the_unbroken_curve(unbroken: Launch, tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    texts = supervised(launch, lambda rank: rank.kill())
    assert any("rank 1 ended without a reason" in text for text in texts)
    assert any(text.startswith("recovered in ") for text in texts)
    warm = next(path for path in (launch.run / "logs").glob("*-2_warm-localhost.log"))
    assert warm.read_text().count("is forked for") == 2  # the ranks of the second attempt
    assert launch.losses() == unbroken.losses()
    assert {line["attempt"] for line in launch.lines()} == {1, 2}


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_the_run_ends_with_the_unbroken_curve(
    unbroken: Launch, tmp_path: Path
) -> None:
    launch = Launch(tmp_path)
    texts = supervised(launch, lambda rank: rank.send_signal(signal.SIGSTOP))
    assert any("rank 1 has begun nothing new for" in text for text in texts)
    assert launch.losses() == unbroken.losses()
