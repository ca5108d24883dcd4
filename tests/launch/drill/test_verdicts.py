"""What is wrong with a run after a drill, told from curves and files by hand."""

import json
from pathlib import Path

import pytest

from launch.drill import verdicts
from launch.drill.verdicts import broken_files, curve_differences

UNBROKEN = {step: (1.0 / step, None, 2.0) for step in range(1, 13)}


def test_the_same_curve_has_no_difference() -> None:
    assert list(curve_differences(dict(UNBROKEN), UNBROKEN)) == []


def test_the_last_bit_counts_where_the_layout_is_the_same() -> None:
    assert list(curve_differences({**UNBROKEN, 7: (1 / 7 + 1e-15, None, 2.0)}, UNBROKEN)) == [
        f"step 7 is {(1 / 7 + 1e-15, None, 2.0)}, not {(1 / 7, None, 2.0)}"
    ]


def test_a_missing_step_is_told() -> None:
    curve = {step: values for step, values in UNBROKEN.items() if step != 12}
    assert list(curve_differences(curve, UNBROKEN)) == ["step 12 is missing"]


@pytest.mark.parametrize(
    ("step", "factor", "is_told"),
    [(4, 1 + 1e-9, True), (5, 1 + 9e-6, False), (9, 1 + 9e-5, True), (10, 1.1, False)],
)
def test_another_layout_is_equal_for_the_first_five_steps(step: int, factor: float, is_told: bool) -> None:
    loss, validation, norm = UNBROKEN[step]
    changed = {**UNBROKEN, step: (loss * factor, validation, norm)}
    assert bool(list(curve_differences(changed, UNBROKEN, changed_after=4))) is is_told


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose checkpoints are well."""
    monkeypatch.setattr(
        verdicts.subprocess, "run", lambda *_, **__: verdicts.subprocess.CompletedProcess([], 0)
    )
    (tmp_path / "done.json").write_text(json.dumps({"attempt": 1}))
    (tmp_path / "journal.jsonl").write_text("{}\n")
    return tmp_path


def test_a_whole_run_has_no_broken_file(run: Path) -> None:
    assert list(broken_files(run)) == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("failed.json", '{"code": ', "failed.json is no JSON"),
        ("telemetry.jsonl", '{"step": 1}\n{"st', "telemetry.jsonl ends within a line"),
        ("checkpoints/.tmp-step-4/x", "", "checkpoints/.tmp-step-4/x is left over"),
        ("hostfile.tmp", "", "hostfile.tmp is left over"),
    ],
)
def test_what_a_kill_cut_off_is_told(run: Path, name: str, content: str, told: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(content)
    assert list(broken_files(run)) == [told]
