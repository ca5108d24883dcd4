"""The ledger: medians past the warm-up, errors, the bar that plan prints."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launch.__main__ import main
from planner import load
from planner.plan.serialization import full_strategy
from planner.prediction.breakdown import PHASES
from planner.report.ledger import error_bar, read_ledger
from tests.support.fuzz import QUICK_AND_SLOW, cases, changed_json, damaged

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


def test_torn_foreign_and_incomplete_lines_are_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 2.0, 2.2)
    telemetry = tmp_path / "a" / "telemetry.jsonl"
    whole = telemetry.read_text(encoding="utf-8").rpartition("\n")[0]
    foreign = (
        "",
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        '{"step": "six", "step_s": 1.0, "phases_s": {}, "predicted": {"step_s": 9.0}}',
        '{"step": 20, "step_s": null, "phases_s": {}, "predicted": {"step_s": 9.0}}',
        '{"step": 21, "step_s": 1.0, "phases_s": null, "predicted": {"step_s": 9.0}}',
        '{"step": 22, "step_s": 1.0, "phases_s": [1.0], "predicted": {"step_s": 9.0}}',
        '{"step": 23, "step_s": 1.0, "phases_s": {"compute": "much"}, "predicted": {"step_s": 9.0}}',
        '{"step": 24, "step_s": 1.0, "phases_s": {}, "attempt": 1}',
        '{"step": 25, "step_s": 1.0, "phases_s": {}, "predicted": "fast", "attempt": 1}',
        '{"step": 26, "step_s": 1.0, "phases_s": {}, "predicted": {"compute": 9.0}, "attempt": [1]}',
        '{"step": 9, "torn',
    )
    telemetry.write_bytes("\n".join([whole, *foreign]).encode() + b"\xff\xfe\n")
    (entry,) = read_ledger(tmp_path)
    assert (entry.num_steps, entry.measured["step_s"]) == (4, 2.0)
    assert entry.error("step_s") == pytest.approx(0.1)


def test_lines_of_a_version_with_other_phases_and_no_attempt_count(tmp_path: Path) -> None:
    run = tmp_path / "old"
    run.mkdir()
    line = {"step_s": 1.0, "phases_s": {"compute": 0.5, "waiting": 0.5}, "predicted": {"step_s": 1.5}}
    lines = [json.dumps({**line, "step": step}) for step in range(1, 9)]
    (run / "telemetry.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (run / "plan.json").write_text("[]", encoding="utf-8")
    (run / "strategy.yaml").write_bytes(b"\xff")
    (entry,) = read_ledger(tmp_path)
    assert (entry.num_steps, entry.layout, entry.gpu) == (3, "?", "?")
    assert entry.measured["compute"] == 0.5
    assert entry.predicted["compute"] == 0.0
    assert entry.error("step_s") == pytest.approx(0.5)


def test_steps_made_again_and_earlier_predictions_do_not_mix(tmp_path: Path) -> None:
    """Attempt 1: steps 1 to 9 of 2 s, predicted 2.2. Attempt 2 goes on from step 4 in a layout of 1 s that is
    predicted 0.9: of its steps 5 to 14 the first five are its warm-up, 10 to 14 count."""
    write_run(tmp_path, "a", 2.0, 2.2)
    telemetry = tmp_path / "a" / "telemetry.jsonl"
    again = [
        {"step": n, "attempt": 2, "step_s": 1.0, "phases_s": {"compute": 1.0}, "predicted": {"step_s": 0.9}}
        for n in range(5, 15)
    ]
    text = telemetry.read_text(encoding="utf-8").rpartition("\n")[0]
    telemetry.write_text("\n".join([text, *map(json.dumps, again)]) + "\n", encoding="utf-8")
    (entry,) = read_ledger(tmp_path)
    assert (entry.num_steps, entry.measured["step_s"]) == (5, 1.0)
    assert entry.error("step_s") == pytest.approx(-0.1)


def test_a_telemetry_that_cannot_be_read_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "odd" / "telemetry.jsonl").mkdir(parents=True)
    assert read_ledger(tmp_path) == ()
    assert read_ledger(tmp_path / "nowhere") == ()


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
    assert "±25% (median of 1 measured run, largest 25%)" in capsys.readouterr().out
    assert main(["ledger", "--folder", str(tmp_path), "--plain"]) == 0
    assert "EP4_TP2_PP1_DP1 colocated, 4 ranks" in capsys.readouterr().out
    assert main(["ledger", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["error"]["step_s"] == pytest.approx(0.25)
    assert main(["ledger", "nothing", "--folder", str(tmp_path)]) == 2
    assert f"SW490 no telemetry.jsonl in {tmp_path / 'nothing'}" in capsys.readouterr().err


def test_files_of_the_wrong_kind_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path, name, 2.0, 2.2)
    (tmp_path / "a" / "telemetry.jsonl").unlink()
    (tmp_path / "a" / "telemetry.jsonl").symlink_to("/dev/zero")
    for name in ("plan.json", "strategy.yaml"):
        (tmp_path / "b" / name).unlink()
        (tmp_path / "b" / name).symlink_to("/dev/zero")
    assert main(["ledger", "--folder", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert [(run["run"], run["layout"] == "?") for run in json.loads(captured.out)["runs"]] == [
        ("b", True),
        ("c", False),
    ]
    assert captured.err == (
        f"warning: {tmp_path}/a/telemetry.jsonl is not a file: this run is left out; move it aside\n"
    )


LINE = {
    "step": 9,
    "attempt": 1,
    "step_s": 1.5,
    "phases_s": {"compute": 1.0},
    "predicted": {"compute": 1.0, "step_s": 1.2},
}


@pytest.mark.parametrize("number", QUICK_AND_SLOW)
def test_any_line_of_telemetry_is_read_or_left_out(tmp_path: Path, number: int) -> None:
    write_run(tmp_path, "a", 2.0, 2.2)
    before = (tmp_path / "a" / "telemetry.jsonl").read_bytes() + b"\n"

    @cases(number)
    @given(line=st.one_of(damaged(json.dumps(LINE).encode()), changed_json(LINE).map(json.dumps)))
    @example(line='{"step": 9, "step_s": 1' + "0" * 400 + ', "phases_s": {}}')
    @example(line="[" * 10_000)
    def holds(line: bytes | str) -> None:
        more = line if isinstance(line, bytes) else line.encode()
        (tmp_path / "a" / "telemetry.jsonl").write_bytes(before + more)
        (entry,) = read_ledger(tmp_path)
        assert entry.num_steps >= 1

    holds()
