"""Drills at random: what counts as a recovery, as a false stop, and as the same bits."""

import json
from pathlib import Path

import pytest

from launch.drill.at_random import final_bits, find_false_stops, newest_common_checkpoint, recovery_s
from launch.drill.run import DrillFailed, DrillRun, Fault, Mark
from launch.supervisor.journal import Entry

FAULTS = (
    Fault(name="001-sigkill", kind="sigkill", rank=3, step=20),
    Fault(name="002-abort", kind="abort", rank=1, step=50),
)


class Told(DrillRun):
    """A run of which only what it left is known; the faults happened at 100 and 200 s."""

    def __init__(self, restarts: list[float], lines: list[tuple[float, int, int]]) -> None:
        self._restarts, self._lines = restarts, lines

    def has_fired(self, name: str) -> bool:
        return True

    def mark_of(self, name: str) -> Mark:
        return {
            "001-sigkill": Mark(time=100.0, attempt=1, step=20),
            "002-abort": Mark(time=200.0, attempt=2, step=50),
        }[name]

    def entries(self) -> list[Entry]:
        return [Entry(time=time, event="restart", text=f"at {time}", facts={}) for time in self._restarts]

    def lines(self) -> list[dict[str, float]]:
        first = {"time": 90.0, "step": 19, "attempt": 1}
        return [first, *({"time": t, "step": step, "attempt": number} for t, step, number in self._lines)]


@pytest.mark.parametrize(
    ("restarts", "false_stops"),
    [
        ([103.0, 201.0], []),
        ([103.0, 140.0, 201.0], ["at 140.0"]),
        ([50.0, 103.0, 201.0], ["at 50.0"]),
        ([], []),
    ],
)
def test_a_restart_without_a_fault_of_its_own_is_a_false_stop(
    restarts: list[float], false_stops: list[str]
) -> None:
    assert list(find_false_stops(Told(restarts, []), FAULTS)) == false_stops


@pytest.mark.parametrize(
    ("line", "expected"),
    [((130.0, 19, 2), None), ((130.0, 20, 2), 30.0), ((100.1, 20, 1), None)],
)
def test_a_run_has_recovered_once_it_is_at_the_fault_s_step_again(
    line: tuple[float, int, int], expected: float | None
) -> None:
    assert recovery_s(Told([], [line]), FAULTS[0]) == expected


def test_the_bits_of_a_checkpoint_are_its_tensors(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00000040"
    folder.mkdir(parents=True)
    files = {"rank-0000.safetensors": {"sha256": "ab"}, "tokenizer.json": {"sha256": "cd"}}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    assert final_bits(tmp_path, 40) == {"rank-0000.safetensors": "ab"}


def test_without_a_checkpoint_of_the_last_step_there_are_no_bits(tmp_path: Path) -> None:
    with pytest.raises(DrillFailed):
        final_bits(tmp_path, 40)


def test_the_bits_are_compared_at_the_newest_step_that_both_have(tmp_path: Path) -> None:
    for run, steps in {"random": (100, 200, 253), "unbroken": (100, 200, 260)}.items():
        for step in steps:
            (tmp_path / run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert newest_common_checkpoint(tmp_path / "random", tmp_path / "unbroken") == 200
    with pytest.raises(DrillFailed):
        newest_common_checkpoint(tmp_path / "random", tmp_path / "other")
