"""`python train.py` without a launcher: trains a plan of one rank, and says at once when there are more."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.launching import ROOT, Launch

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")


def plain(launch: Launch, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    return subprocess.run(
        [sys.executable, "train.py", "--strategy", str(launch.strategy), *arguments],
        cwd=ROOT,
        env=environment | {"NO_COLOR": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_plan_of_one_rank_needs_no_launcher(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    ended = plain(launch, "--local-rank=0", "--ep_degree", "1", "training.steps=2")
    assert ended.returncode == 0, ended.stderr
    assert launch.read("done.json")["step"] == 2


def test_too_few_processes_are_reported_at_once(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    began = time.monotonic()
    ended = plain(launch, "parallel.ep=4")
    assert ended.returncode == 2
    assert "SW602 parallel: EP4_TP1_PP1_DP1 has 4 ranks; 1 process was started" in ended.stderr
    assert time.monotonic() - began < 40, "nobody else was started, so nobody is waited for"
    assert launch.read("failed.json")["code"] == 2


def test_a_contradictory_launcher_is_wrong_input(tmp_path: Path) -> None:
    ended = plain(Launch(tmp_path), RANK="3", WORLD_SIZE="2")
    assert ended.returncode == 2
    assert ended.stderr.startswith("SW601 ")
    assert "RANK=3, WORLD_SIZE=2" in ended.stderr
