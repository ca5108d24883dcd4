"""Which steps are checked for silent corruption, when, and what is said of it."""

from types import SimpleNamespace
from typing import Any

import pytest

from planner import Plan, build_plan, loads
from runtime.training.step_checks import Checked, StepChecks
from tests.runtime.startup.test_resume import STRATEGY


def _plan(*overrides: str) -> Plan:
    always = ("training.steps=11", "training.warmup_steps=1", "output.checkpoint_every=5")
    return build_plan(loads(STRATEGY, (*always, *overrides)))


def _checks(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> tuple[StepChecks, list[int]]:
    """And the steps in which replicas are compared."""
    compared: list[int] = []
    monkeypatch.setattr(
        "runtime.training.step_checks.check_replicas",
        lambda engine, groups, step, folder: compared.append(step),
    )
    nothing: Any = SimpleNamespace(log=None)
    return StepChecks(plan, nothing, nothing, None), compared


def test_replicas_are_compared_before_and_after_an_update_and_where_a_checkpoint_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks, compared = _checks(_plan("runtime.check_replicas_every=3"), monkeypatch)
    for step in range(1, 12):
        assert checks.begin(step) is None
        before = len(compared)
        checks.before_update()
        assert len(compared) - before == int(step in (3, 5, 6, 9, 10, 11))
        checks.after_update()
        checks.before_save()
    twice = [3, 3, 4, 5, 5, 6, 6, 7, 8, 9, 9, 10, 10, 11, 11]
    assert compared == [1, 2, *twice], "a save at a stop compares what no step has compared"


def test_micro_batches_are_replayed_in_turn_and_where_a_checkpoint_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = _plan("runtime.replay_every=2", "training.global_batch=16")
    assert plan.batch.accumulation % 4 == 0
    checks, _ = _checks(plan, monkeypatch)
    replays = [checks.begin(step) for step in range(1, 12)]
    found = [None if replay is None else replay.micro_batch for replay in replays]
    turn = plan.batch.accumulation
    assert found == [None, 1, None, 2 % turn, 2 % turn, 3 % turn, None, 4 % turn, None, 5 % turn, 5 % turn]
    assert checks.checked is not None


def test_telemetry_has_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checks, _ = _checks(_plan("runtime.check_replicas_every=3", "runtime.replay_every=4"), monkeypatch)
    found = {}
    for step in (1, 3, 4):
        checks.begin(step)
        checks.before_update()
        found[step] = checks.checked
    assert found[1] is None
    assert found[3] == Checked(replicas=True, replayed=None, seconds=found[3].seconds)
    assert (found[4].replicas, found[4].replayed) == (False, 1 % _plan().batch.accumulation)
