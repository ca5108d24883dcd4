"""`python -m runtime.checkpoint reshard`: what it writes resumes in its layout, and what is wrong is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launching import ROOT, Launch


def reshard(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.checkpoint", "reshard", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_run_continues_from_it_in_its_layout(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    code, output = launch.train()
    assert code == 0, output
    losses = launch.losses()
    out, wide = tmp_path / "out", ("parallel={ep: 2, tp: 2, dp: 2, zero_stage: 2}", "name=wide")
    checkpoint = launch.run / "checkpoints" / "step-00000009"
    done = reshard(checkpoint, launch.strategy, out, *wide)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'step-00000009'}\n"
    assert len(list((out / "step-00000009").glob("rank-*.safetensors"))) == 4

    code, output = launch.train(*wide, f"output.resume={out}", ranks=4)
    assert code == 0, output
    launch.run = tmp_path / "runs" / "wide"
    found = launch.losses()
    assert sorted(found) == [10, 11, 12]
    for step, (loss, _, norm) in found.items():
        assert loss == pytest.approx(losses[step][0], rel=1e-5)
        assert norm == pytest.approx(losses[step][2], rel=1e-4)


@pytest.mark.slow
def test_wrong_input_is_2_and_writes_nothing(tmp_path: Path) -> None:
    strategy, out = Launch(tmp_path).strategy, tmp_path / "out"
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    for arguments, expected in (
        ((tmp_path / "none", strategy, out), "SW831 no such folder"),
        ((tmp_path, strategy, out, "parallel.ep=3"), "parallel.ep=3"),
        ((tmp_path, strategy, tmp_path / "checkpoints"), "SW832 it exists and is not empty"),
    ):
        ended = reshard(*arguments)
        assert ended.returncode == 2, ended.stderr
        assert expected in ended.stderr
        assert "Traceback" not in ended.stderr
    damaged = reshard(tmp_path, strategy, out)
    assert damaged.returncode == 1, damaged.stderr
    assert "SW801" in damaged.stderr
    assert not out.exists()
