"""The loop over steps: which steps are saved, and what ends a run before its last step."""

import logging
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner import Plan, build_plan, loads
from runtime.startup.training_run import TrainingRun
from runtime.training.loss_guard import MAX_SKIPPED, Diverged
from runtime.training.trainer import Trainer
from tests.runtime.startup.test_resume import STRATEGY
from train import train_steps


class FakeTrainer(Trainer):
    """Steps that do nothing but skip where `bad` says so, with a loss of 2, or what `losses` says."""

    bad: Collection[int] = ()
    losses: Mapping[int, float] = MappingProxyType({})

    def train_step(self, step: int) -> Any:
        result = SimpleNamespace(skipped=step in self.bad, loss=self.losses.get(step, 2.0))
        return SimpleNamespace(step=step, result=result)


class FakeData:
    """Batches of two sequences."""

    def train_indices(self, batch_index: int) -> np.ndarray:
        return np.array([batch_index * 2, batch_index * 2 + 1])


class FakeRun(TrainingRun):
    """Asks for a stop at step `stop_at`, and keeps which steps were saved."""

    def __init__(self, plan: Plan, stop_at: int | None) -> None:
        self.plan, self.last_step = plan, plan.strategy.training.steps
        self.observed: list[int] = []
        self.saved: list[int] = []
        self._stop_at, self._is_save_due = stop_at, False

    def observe(self, report: Any) -> None:
        self.observed.append(report.step)

    def should_stop(self) -> bool:
        return self.observed[-1] == self._stop_at

    def save(self, step: int) -> None:
        self.saved.append(step)
        self._is_save_due = False

    def finish_saving(self) -> None:
        """Saves are whole at once."""


def _trainer(plan: Plan, rank: int = 0) -> FakeTrainer:
    return FakeTrainer(
        plan=plan,
        engine=SimpleNamespace(module=None),
        groups=SimpleNamespace(rank=rank),  # type: ignore[arg-type]
        data=FakeData(),  # type: ignore[arg-type]
        clock=None,  # type: ignore[arg-type]
        horizon=plan.strategy.training.steps,
    )


def saved(
    bad: Collection[int],
    *,
    steps: int = 30,
    stop_at: int | None = None,
    rank: int = 0,
    losses: Mapping[int, float] = MappingProxyType({}),
) -> list[int]:
    """The steps that were saved; -1 if the run diverged."""
    overrides = (f"training.steps={steps}", "training.warmup_steps=1", "output.checkpoint_every=5")
    plan = build_plan(loads(STRATEGY, overrides))
    run = FakeRun(plan, stop_at)
    trainer = _trainer(plan, rank)
    trainer.bad, trainer.losses = bad, losses
    try:
        train_steps(run, trainer, first_step=1)
    except Diverged:
        return [*run.saved, -1]
    assert run.observed[-1] == (stop_at or steps)
    return run.saved


def test_every_so_many_steps_and_the_last_are_saved() -> None:
    assert saved((), steps=12) == [5, 10, 12]


def test_a_save_waits_for_a_finite_gradient() -> None:
    assert saved({10, 11, 20}, steps=22) == [5, 12, 15, 21, 22]


def test_a_save_waits_until_the_loss_is_no_longer_high() -> None:
    assert saved((), steps=16, losses={9: 6.1, 10: 6.1, 15: 6.1}) == [5, 11, 16]


def test_no_checkpoint_is_written_after_a_run_has_diverged() -> None:
    assert saved(range(7, 7 + MAX_SKIPPED)) == [5, -1]


def test_a_last_step_that_was_skipped_is_no_result() -> None:
    assert saved({12}, steps=12) == [5, 10, -1]


def test_a_loss_that_is_not_finite_ends_the_run_before_a_save() -> None:
    assert saved((), losses={15: math.nan}) == [5, 10, -1]


def test_what_diverged_names_the_sequences_of_its_first_step() -> None:
    plan = build_plan(loads(STRATEGY))
    trainer = FakeTrainer(
        plan=plan,
        engine=None,
        groups=SimpleNamespace(rank=0),  # type: ignore[arg-type]
        data=FakeData(),  # type: ignore[arg-type]
        clock=None,  # type: ignore[arg-type]
        horizon=30,
        recent_losses=(1.0,),
    )
    trainer.losses = dict.fromkeys(range(3, 8), 5.1)
    for step in range(1, 7):
        trainer.check(trainer.train_step(step))
    with pytest.raises(Diverged) as raised:
        trainer.check(trainer.train_step(7))
    # The mean of 1, 2 and 2 is 5/3: above 5 is high.
    assert raised.value.first_step == 3
    assert raised.value.sequences == [4, 5]


def test_a_stop_saves_at_once() -> None:
    assert saved({7}, stop_at=8) == [5, 8]


def test_a_stop_does_not_save_what_a_skipped_step_left() -> None:
    assert saved({7, 8}, stop_at=8) == [5]


def test_a_run_by_tokens_ends_with_the_step_that_reaches_them() -> None:
    """4 sequences of 32 tokens a step: 1,281 tokens are 10 steps and one more."""
    text = STRATEGY.replace("steps: 20", "tokens: 1281")
    plan = build_plan(loads(text, ("training.warmup_steps=1", "output.checkpoint_every=5")))
    run = FakeRun(plan, None)
    train_steps(run, _trainer(plan), first_step=1)
    assert run.observed == list(range(1, 12))
    assert run.saved == [5, 10, 11]


def test_only_rank_0_logs_a_skipped_step(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        saved({3}, rank=1)
        assert not caplog.records
        saved({3})
    (record,) = caplog.records
    assert record.getMessage().startswith("SW951 step 3:")
