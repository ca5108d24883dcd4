"""The ledger: medians past the warm-up, errors, the bar that plan prints."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import load
from planner.artifacts import full_strategy
from planner.ledger import error_bar, read_ledger
from planner.phases import PHASES

TINY = "ds_configs/tiny_cpu.yaml"


def write_run(folder: Path, name: str, step_s: float, predicted_s: float, *, steps: int = 9) -> None:
    run = folder / name
    run.mkdir(parents=True)
    (run / "strategy.yaml").write_text(full_strategy(load(TINY)), encoding="utf-8")
    plan = {"degrees": "EP4_TP2_PP1_DP1", "placement": "colocated", "world_size": 4}
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    lines = []
    for step in range(1, steps + 1):
        slow = 100.0 if step <= 5 else step_s  # the warm-up
        phases = {**dict.fromkeys(PHASES, 0.0), "compute": slow}
        predicted = {**dict.fromkeys(PHASES, 0.0), "compute": predicted_s, "step_s": predicted_s}
        line = {"step": step, "attempt": 1, "step_s": slow, "phases_s": phases, "predicted": predicted}
        lines.append(json.dumps(line))
    (run / "telemetry.jsonl").write_text("\n".join([*lines, '{"step": 10, "torn']), encoding="utf-8")


def test_errors_are_of_medians_past_the_warm_up(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 2.0, 2.2)
    (entry,) = read_ledger(tmp_path)
    assert (entry.run, entry.num_steps, entry.measured["step_s"]) == ("a", 4, 2.0)
    assert entry.error("step_s") == pytest.approx(0.1)
    assert entry.error("all_to_all") is None
    assert entry.layout == "EP4_TP2_PP1_DP1 colocated, 4 ranks"


def test_runs_without_predictions_or_steps_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "short", 2.0, 2.0, steps=5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "telemetry.jsonl").write_text("", encoding="utf-8")
    assert read_ledger(tmp_path) == ()


def test_the_bar_is_of_runs_on_the_same_device(tmp_path: Path) -> None:
    for name, measured in (("a", 2.0), ("b", 1.0), ("c", 1.6)):
        write_run(tmp_path, name, measured, 2.0)
    entries = read_ledger(tmp_path)
    bar = error_bar(entries, load(TINY))
    assert bar is not None
    assert (bar.num_runs, bar.median, bar.largest) == (3, 0.25, 1.0)
    assert error_bar(entries, load("ds_configs/ep64_tp2.yaml")) is None
    assert len(read_ledger(tmp_path, ["b"])) == 1


def test_plan_prints_its_bar_and_ledger_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "a", 2.0, 2.5)
    assert main(["plan", TINY, f"output.folder={tmp_path}"]) == 0
    assert "error so far: ±25% (median of 1 run measured before, largest 25%)" in capsys.readouterr().out
    assert main(["ledger", "--folder", str(tmp_path), "--plain"]) == 0
    assert "EP4_TP2_PP1_DP1 colocated, 4 ranks" in capsys.readouterr().out
    assert main(["ledger", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["error"]["step_s"] == pytest.approx(0.25)
    assert main(["ledger", "nothing", "--folder", str(tmp_path)]) == 1
