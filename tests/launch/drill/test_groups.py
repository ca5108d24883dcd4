"""The sixteen kinds: each has a group, and faults that its ranks know."""

from dataclasses import fields
from itertools import groupby
from pathlib import Path

import pytest

from launch.drill import run as launched
from launch.drill.fit import NUM_STEPS
from launch.drill.groups import Group, alter_newest, make_group
from launch.drill.kinds import KINDS, NAMES, SAVE_PHASES
from launch.drill.run import DrillFailed
from runtime import drill as ranks

GROUPS = [
    make_group(name, tuple(kinds))
    for name, kinds in groupby(sorted(KINDS, key=lambda kind: kind.group), key=lambda kind: kind.group)
]


def test_there_are_sixteen() -> None:
    assert len(set(NAMES)) == 16
    assert sorted(kind.name for group in GROUPS for kind in group.kinds) == sorted(NAMES)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_the_ranks_know_every_fault(group: Group) -> None:
    names = {fault.name for fault in group.faults}
    for kind in group.kinds:
        assert set(group.names[kind.name]) <= names
    assert {fault.kind for fault in group.faults} <= set(ranks.ACTIONS)
    assert all(0 <= fault.rank < 8 and 2 < fault.step < NUM_STEPS for fault in group.faults)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_no_step_has_two_faults(group: Group) -> None:
    steps = [fault.step for fault in group.faults]
    assert len(steps) == len(set(steps))


def test_launcher_and_ranks_mean_the_same_faults() -> None:
    assert [field.name for field in fields(launched.Fault)] == [field.name for field in fields(ranks.Fault)]
    for name in ("FOLDER_NAME", "FAULTS_NAME", "BACKGROUND_NAME"):
        assert getattr(launched, name) == getattr(ranks, name)
    assert set(SAVE_PHASES) == set(ranks._SAVE_EVENTS)


def test_one_byte_of_the_newest_checkpoint_is_altered(tmp_path: Path) -> None:
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "rank-0000.safetensors").write_bytes(bytes(range(9)))
    alter_newest(tmp_path)
    assert (tmp_path / "step-00000002" / "rank-0000.safetensors").read_bytes() == bytes(range(9))
    altered = (tmp_path / "step-00000004" / "rank-0000.safetensors").read_bytes()
    assert [a == b for a, b in zip(altered, range(9), strict=True)].count(False) == 1


def test_without_a_checkpoint_there_is_nothing_to_alter(tmp_path: Path) -> None:
    with pytest.raises(DrillFailed):
        alter_newest(tmp_path)
