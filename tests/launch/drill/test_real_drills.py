"""`python -m launch drill` for real: faults in runs on hosts of its own end with the unbroken curve.

Slow, each of them: a drill starts eight ranks a dozen times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.drill.hosts import why_no_loopback
from launch.drill.kinds import KINDS, SAVE_PHASES
from planner.paths import PROJECT
from tests.support.launching import STRATEGY

pytestmark = pytest.mark.slow

# What the journal calls it: docs/how-to/supervise.md, "What it decides".
TOLD = {
    "exception": "an error of the program",
    "thread-exception": "an error of the program",
    "segfault": "a rank was killed: rank 2 ended without a reason",
    "abort": "a rank was killed: rank 5 ended without a reason",
    "sigkill": "a rank was killed: rank 7 ended without a reason",
    "sigint": "stopped: stopped by a signal to a rank",
    "sigterm": "stopped: stopped by a signal to a rank",
    "sigstop": "a hang: rank 6 has begun nothing new for",
    "held-lock": "a hang: rank 3 has begun nothing new for",
    "disk-full": "an error of the program",
    **{f"save-kill-{phase}": "a rank was killed: rank 0" for phase in SAVE_PHASES},
    "save-kill-shard": "a rank was killed: rank 3",
    "corrupt-checkpoint": "a rank was killed: rank 1",
    "supervisor-killed": "ended what an earlier supervisor left of its last attempt on node1",
    "slow-network": "no restart",
    "cut-network": "a host was lost",
    "too-few-spares": "a host was lost",
}


def drill(folder: Path, *words: str, timeout: float) -> dict[str, Any]:
    """The answer of the command, which must be well."""
    text = folder / "text.txt"
    text.write_text("".join(f"The {n}th wagon goes to track {n * n % 13}.\n" for n in range(3000)))
    strategy = folder / "smoke.yaml"
    strategy.write_text(STRATEGY.format(text=text, runs=folder / "runs"))
    done = subprocess.run(
        [sys.executable, "-m", "launch", "drill", str(strategy), "--json", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(folder.glob("switchyard-drill-*")), "its folder is removed"
    assert not (folder / "runs").exists(), "the strategy's own output.folder is not touched"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of all kinds that this machine can have."""
    if (reason := why_no_loopback()) is not None:
        pytest.skip(reason)
    return drill(tmp_path_factory.mktemp("all kinds"), timeout=2400)


def test_the_strategy_is_fitted_to_eight_ranks(answer: dict[str, Any]) -> None:
    assert answer["layout"] == "EP2_TP1_PP1_DP4"


def test_every_kind_is_drilled_or_left_out_by_name(answer: dict[str, Any]) -> None:
    drilled = {found["kind"] for found in answer["drills"]}
    left_out = {text.rpartition(" ")[2] for text in answer["left_out"]}
    assert drilled | left_out == {kind.name for kind in KINDS}
    assert left_out <= {kind.name for kind in KINDS if kind.needs_network}


@pytest.mark.parametrize("name", TOLD)
def test_the_run_recovers_and_ends_as_the_unbroken_one(answer: dict[str, Any], name: str) -> None:
    drills = {found["name"]: found for found in answer["drills"]}
    left_out = tuple(text.rpartition(" ")[2] for text in answer["left_out"])
    if name not in drills and left_out and name.startswith(left_out):
        pytest.skip("; ".join(answer["left_out"]))
    assert drills[name]["faults"] == []
    assert drills[name]["told"].startswith(TOLD[name])
    assert 0 < drills[name]["seconds"] < 300


def test_faults_at_random_end_with_the_bits_of_the_run_without_any(tmp_path: Path) -> None:
    if (reason := why_no_loopback()) is not None:
        pytest.skip(reason)
    random = drill(tmp_path, "--hours", "0.04", "--mtbf", "20 s", "--seed", "3", timeout=900)["random"]
    assert random["faults"]
    assert random["recovered"] == random["faults"]
    assert random["false_stops"] == random["wrong"] == []
    assert random["compared_step"] > 0
    assert 0 < random["goodput"] < 1
