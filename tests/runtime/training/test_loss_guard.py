"""The loss guard by hand: what is high, what resets it, what earlier attempts count for."""

import math
from collections.abc import Iterable

import pytest

from runtime.training.loss_guard import MAX_SKIPPED, Diverged, LossGuard


def observe_all(guard: LossGuard, losses: Iterable[float], *, first_step: int = 1) -> None:
    for step, loss in enumerate(losses, start=first_step):
        guard.observe(step, loss, skipped=False)


def test_five_high_losses_in_a_row_end_a_run_and_the_first_is_named() -> None:
    guard = LossGuard(last_step=1000)
    observe_all(guard, [2.0] * 40 + [6.1] * 4)
    assert not guard.is_sound
    with pytest.raises(Diverged) as raised:
        guard.observe(45, 6.1, skipped=False)
    assert (raised.value.code, raised.value.first_step) == ("SW956", 41)
    assert "41 to 45" in raised.value.found


def test_a_loss_of_three_times_the_mean_is_not_high() -> None:
    guard = LossGuard(last_step=1000)
    observe_all(guard, [2.0] * 10 + [6.0])
    assert guard.is_sound


def test_four_high_losses_and_one_that_is_not_start_over() -> None:
    guard = LossGuard(last_step=1000)
    observe_all(guard, [2.0] * 40 + ([7.0] * 4 + [2.0]) * 3)
    assert guard.is_sound


def test_high_losses_do_not_raise_the_mean_that_they_are_compared_with() -> None:
    # With the first four 100s in it the mean would be 62.5 of 8 steps, and a fifth of 100 not above it.
    guard = LossGuard(last_step=1000)
    with pytest.raises(Diverged):
        observe_all(guard, [1.0] * 4 + [100.0] * 5)


def test_only_the_last_hundred_count() -> None:
    # A mean of all 200 would be 5.5; of the last 100 it is 1.
    guard = LossGuard(last_step=1000)
    with pytest.raises(Diverged):
        observe_all(guard, [10.0] * 100 + [4.0] * 60 + [1.0] * 100 + [3.1] * 5)


def test_losses_of_an_earlier_attempt_count() -> None:
    guard = LossGuard(last_step=1000, recent_losses=[1.0, math.nan, 1.0])
    with pytest.raises(Diverged) as raised:
        observe_all(guard, [3.5] * 5, first_step=11)
    assert raised.value.first_step == 11


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_a_run_at_once(loss: float) -> None:
    guard = LossGuard(last_step=1000)
    observe_all(guard, [2.0] * 3)
    with pytest.raises(Diverged) as raised:
        guard.observe(4, loss, skipped=True)
    assert (raised.value.code, raised.value.first_step) == ("SW955", 4)


def test_a_batch_without_targets_has_no_loss_to_compare() -> None:
    guard = LossGuard(last_step=1000)
    observe_all(guard, [0.0, 0.0, 2.0, 2.0])
    assert guard.is_sound


def test_ten_skipped_steps_in_a_row_end_a_run() -> None:
    guard = LossGuard(last_step=1000)
    for step in range(1, MAX_SKIPPED):
        guard.observe(step, 2.0, skipped=True)
    with pytest.raises(Diverged) as raised:
        guard.observe(MAX_SKIPPED, 2.0, skipped=True)
    assert (raised.value.code, raised.value.first_step) == ("SW952", 1)


def test_a_skipped_last_step_ends_a_run_and_names_the_first_that_was_skipped() -> None:
    guard = LossGuard(last_step=6)
    observe_all(guard, [2.0] * 4)
    guard.observe(5, 2.0, skipped=True)
    with pytest.raises(Diverged) as raised:
        guard.observe(6, 2.0, skipped=True)
    assert (raised.value.code, raised.value.first_step) == ("SW957", 5)
