"""`python -m runtime.checkpoint inspect|verify`: output and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from runtime.checkpoint.__main__ import app
from runtime.checkpoint.store import write
from tests.support.states import META, SHAPES, full_piece, full_state, save, sliced

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "checkpoints", 50, sliced(full_state(1)))
    save(tmp_path / "checkpoints", 100, sliced(full_state(2)))
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def damage(run: Path) -> None:
    path = run / "checkpoints" / "step-00000100" / "rank-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_verify_of_an_intact_run_exits_with_0(run: Path) -> None:
    result = call("verify", run)
    assert result.exit_code == 0
    assert [line.rpartition(": ")[2] for line in result.stdout.splitlines()] == ["intact", "intact"]


def test_verify_of_a_damaged_run_exits_with_1_and_says_why(run: Path) -> None:
    damage(run)
    result = call("verify", run)
    assert result.exit_code == 1
    assert "step-00000100: damaged\n  SW804 rank-0000.safetensors has" in result.stdout
    assert "step-00000050: intact" in result.stdout


def test_verify_of_one_checkpoint_checks_only_that_one(run: Path) -> None:
    damage(run)
    assert call("verify", run / "checkpoints" / "step-00000050").exit_code == 0
    assert call("verify", run / "checkpoints" / "step-00000100").exit_code == 1


def test_verify_as_json(run: Path) -> None:
    damage(run)
    result = call("verify", run, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["schema_version"] == 2
    assert said["intact"] is False
    assert [bool(entry["damage"]) for entry in said["checkpoints"]] == [True, False]


def test_inspect_shows_the_newest(run: Path) -> None:
    result = call("inspect", run)
    assert result.exit_code == 0
    assert "step                 100" in result.stdout
    assert "model fingerprint    model-1" in result.stdout
    assert "model.layers.0.mlp.experts.up" in result.stdout
    assert "4×5×3" in result.stdout


def test_inspect_cuts_no_name_when_it_is_piped(tmp_path: Path) -> None:
    name = "model.layers.15.mlp.shared_experts.down_projection.of_a_long_name.weight"
    piece = full_piece(name, "weight", torch.ones(3))
    write(tmp_path / "checkpoints", 1, [piece], META)
    assert name in call("inspect", tmp_path).stdout


def test_inspect_as_json(run: Path) -> None:
    said = json.loads(call("inspect", run, "--json").stdout)
    assert said["step"] == 100
    assert said["num_parameters"] == 16 * 6 + 4 * 5 * 3 + 6
    assert set(said["tensors"]) == set(SHAPES)
    assert said["tensors"]["model.norm.weight"]["exp_avg"] == {"shape": [6], "dtype": "F32"}


def test_inspect_of_a_damaged_manifest_exits_with_1(run: Path) -> None:
    (run / "checkpoints" / "step-00000100" / "manifest.json").write_text("{")
    result = call("inspect", run)
    assert result.exit_code == 1
    assert result.stderr.startswith("SW802")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_without_checkpoints_is_a_problem(tmp_path: Path, command: str) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        result = call(command, folder)
        assert result.exit_code == 2
        assert "SW831" in result.stderr
        assert result.stdout == ""


def test_it_runs_as_a_module(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.checkpoint", "verify", str(run), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["intact"] is True
    assert done.stderr == ""
