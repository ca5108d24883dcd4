"""Faults of a drill's ranks: each once, at its step or the first after it, with a mark that says when."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime import drill
from runtime.drill import Fault, arm
from runtime.process.pulse import Pulse


class Rank:
    """Rank 3, armed: what happened to it, by (fault, step); `enter` begins a phase."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, attempt: int = 1) -> None:
        self.happened: list[tuple[str, int]] = []
        self.slept: list[float] = []
        self._step = 0
        monkeypatch.setattr(Pulse, "enter", Pulse.enter)  # what `arm` changes is put back
        for kind in drill.ACTIONS:
            monkeypatch.setitem(drill.ACTIONS, kind, self._note)
        monkeypatch.setattr(time, "sleep", self.slept.append)
        arm(folder, 3)
        self._pulse = Pulse(folder / "pulses" / f"rank-{attempt}", attempt=attempt)

    def enter(self, phase: str, step: int) -> None:
        self._step = step
        self._pulse.enter(phase, step)

    def _note(self, folder: Path, fault: Fault) -> None:
        self.happened.append((fault.name, self._step))


def write(folder: Path, *faults: Fault) -> None:
    (folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))


def test_a_fault_happens_once_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        Fault(name="mine", kind="sigkill", rank=3, step=2),
        Fault(name="another rank's", kind="sigkill", rank=4, step=2),
    )
    rank = Rank(tmp_path, monkeypatch, attempt=5)
    for step in (1, 2, 3):
        rank.enter("step", step)
    assert rank.happened == [("mine", 2)]
    mark = json.loads((tmp_path / "mine.fired").read_text())
    assert (mark["attempt"], mark["step"]) == (5, 2)
    assert not (tmp_path / "another rank's.fired").exists()


def test_a_fault_that_is_added_too_late_for_its_step_happens_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    rank = Rank(tmp_path, monkeypatch)
    rank.enter("step", 7)
    write(tmp_path, Fault(name="late", kind="abort", rank=3, step=6))
    rank.enter("save", 7)
    rank.enter("step", 8)
    assert rank.happened == [("late", 8)]


def test_a_fault_of_a_save_waits_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, Fault(name="full", kind="disk-full", rank=3, step=4, phase="shard"))
    rank = Rank(tmp_path, monkeypatch)
    rank.enter("step", 4)
    rank.enter("save", 4)
    assert rank.happened == [("full", 4)]


def test_before_a_hang_the_rank_lets_a_step_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, Fault(name="stop", kind="sigstop", rank=3, step=4))
    rank = Rank(tmp_path, monkeypatch)
    for step in (2, 3, 4, 3, 4):  # the second time after a restart
        rank.enter("step", step)
    assert rank.happened == [("stop", 4)]
    assert rank.slept == [drill.SEEN_S]
