"""`output.async_save`: checkpoints of a run that does not wait for them, and a save that fails."""

import json
import signal
from pathlib import Path

import pytest

from tests.support.launching import Launch

ASYNC = "output.async_save=true"


@pytest.mark.slow
def test_checkpoints_hold_the_same_bytes_and_resume(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    code, output = launch.train("training.steps=6")
    assert code == 0, output
    expected, losses = file_hashes(launch.run), launch.losses()

    (tmp_path / "killed").mkdir()
    killed = Launch(tmp_path / "killed")
    killed.start("training.steps=6", "output.checkpoint_every=1", ASYNC)
    killed.wait_for_step(4)
    killed.ranks()[1].send_signal(signal.SIGKILL)
    killed.finish()
    code, output = killed.train("training.steps=6", "output.checkpoint_every=1", ASYNC)
    assert code == 0, output
    assert killed.losses() == losses
    assert file_hashes(killed.run) == expected


@pytest.mark.slow
def test_a_save_that_fails_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.start("training.steps=2000", "output.checkpoint_every=1", ASYNC)
    launch.wait_for_step(3)
    checkpoints = launch.run / "checkpoints"
    checkpoints.rename(launch.run / "moved")
    checkpoints.write_text("in its place\n")
    code, output = launch.finish()
    assert code != 0
    failed = launch.read("failed.json")
    assert failed["code"] == 3
    assert "SW811" in str(failed["problems"])
    assert output.count("SW811") == 1, output
    assert "Traceback" not in output
    assert (launch.run / "moved" / f"step-{failed['checkpoint']:08d}" / "manifest.json").exists()


def file_hashes(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "checkpoints" / "step-00000006" / "manifest.json").read_text())
    return {name: record["sha256"] for name, record in manifest["files"].items()}
