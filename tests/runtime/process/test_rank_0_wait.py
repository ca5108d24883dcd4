"""Ranks that leave a report to rank 0 wait for its end, not longer, and need only the standard library."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.process.gpu_presence import has_gpu

ROOT = Path(__file__).parents[3]
WAITS = "from runtime.process.rank_0_wait import *; leave_to_rank_0(7)"
IMPORTS = """
import sys
from runtime.process.gpu_presence import has_gpu
from runtime.process.launchers import find_launcher
from runtime.process.rank_0_wait import leave_to_rank_0
print([name for name in ("planner", "pydantic", "torch", "psutil") if name in sys.modules])
"""


def start(rank: int, *command: str) -> subprocess.Popen[bytes]:
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
    return subprocess.Popen([*command], cwd=ROOT, env=os.environ | variables)


def test_it_ends_when_rank_0_has_ended() -> None:
    """Rank 0 takes 2 s to speak; another rank runs for longer."""
    rank_0, longer = start(0, "sleep", "2"), start(1, "sleep", "30")
    began = time.monotonic()
    waiting = start(2, sys.executable, "-c", WAITS)
    try:
        assert rank_0.wait() == 0
        spoke = time.monotonic()
        assert waiting.poll() is None, "it has not waited"
        assert waiting.wait(10) == 7
        assert time.monotonic() - spoke < 8, "it has waited for more than rank 0"
        assert time.monotonic() - began > 2
    finally:
        longer.kill()
        longer.wait()


def test_a_rank_0_that_has_ended_before_is_not_waited_for() -> None:
    other = start(1, "sleep", "30")
    began = time.monotonic()
    try:
        assert start(2, sys.executable, "-c", WAITS).wait(15) == 7
        assert time.monotonic() - began < 10
    finally:
        other.kill()
        other.wait()


def test_what_comes_before_the_strategy_needs_the_standard_library_alone() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("dev/nvidia0", None, True),
        ("dev/nvidia0", "1", True),
        ("dev/nvidia0", "", False),
        ("dev/nvidia0", "NoDevFiles", False),
        ("dev/nvidiactl", None, False),
        ("dev/kfd", None, True),
        ("dev/null", None, False),
    ],
)
def test_a_gpu_is_seen_by_its_device_file(
    tmp_path: Path, device: str, visible: str | None, expected: bool
) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / device).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert has_gpu(environment, tmp_path) is expected
