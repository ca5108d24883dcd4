"""A run that diverges ends with 1, saves none of its weights, and what it advises trains to the end."""

import subprocess
from pathlib import Path

import pytest

from tests.smoke.test_plain import plain
from tests.support.launching import Launch


def train(launch: Launch, *overrides: str) -> subprocess.CompletedProcess[str]:
    return plain(launch, "parallel.ep=1", "output.validate_every=100", *overrides)


@pytest.mark.slow
def test_a_run_that_diverges_is_not_done_and_the_advice_works(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    ended = train(launch, "training.steps=3", "output.checkpoint_every=1")
    assert ended.returncode == 0, ended.stderr

    run = tmp_path / "runs" / "diverges"
    source = (f"output.resume={launch.run}", "output.branch=true", "training.min_learning_rate=0")
    explodes = ("name=diverges", "training.learning_rate=0.9", "training.warmup_steps=0")
    ended = train(launch, *source, *explodes, "training.steps=40", "output.checkpoint_every=1")
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("SW956") == 1
    assert "Traceback" not in ended.stderr
    # The update of step 4, the first, made weights whose loss, first seen in step 5, is high.
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000004"
    assert not (run / "done.json").exists()
    launch.run = run
    failed = launch.read("failed.json")
    assert (failed["code"], failed["checkpoint"]) == (1, 4)
    (problem,) = failed["problems"]
    assert (problem["code"], problem["step"], len(problem["sequences"])) == ("SW956", 5, 8)
    assert problem["fix"].endswith("for example name=diverges-2 training.learning_rate=0.45")

    # Half of that rate would diverge as well; a good one does not.
    ended = train(launch, *source, "name=diverges-2", "training.learning_rate=0.004", "training.steps=5")
    assert ended.returncode == 0, ended.stderr
    launch.run = tmp_path / "runs" / "diverges-2"
    assert launch.read("done.json")["step"] == 5
