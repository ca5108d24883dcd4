"""When the loop saves: at its steps, at the end, when asked to stop, and not over the last good weights."""

import logging
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from planner import build_plan, loads
from runtime.training.loop import MAX_SKIPPED, Diverged, Loop
from tests.runtime.startup.test_resume import STRATEGY


class FakeLoop(Loop):
    """Steps that do nothing but skip where `bad` says so."""

    bad: Collection[int] = ()

    def _step(self, step: int, *, validate: bool) -> Any:
        return SimpleNamespace(step=step, result=SimpleNamespace(skipped=step in self.bad))


def run(bad: Collection[int], *, steps: int = 30, stop_at: int | None = None, rank: int = 0) -> list[int]:
    """The steps that were saved."""
    saved: list[int] = []
    told: list[int] = []
    overrides = (f"training.steps={steps}", "training.warmup_steps=1", "output.checkpoint_every=5")
    loop = FakeLoop(
        plan=build_plan(loads(STRATEGY, overrides)),
        engine=None,
        groups=SimpleNamespace(rank=rank),
        data=None,
        clock=None,
        stop=SimpleNamespace(boundary=lambda any_rank: len(told) == stop_at),
        tell=lambda report: told.append(report.step),
        save=saved.append,
        first_step=1,
        horizon=steps,
    )
    loop.bad = bad
    try:
        loop.run()
    except Diverged:
        saved.append(-1)
    return saved


def test_every_so_many_steps_and_the_last_are_saved() -> None:
    assert run((), steps=12) == [5, 10, 12]


def test_a_save_waits_for_a_finite_gradient() -> None:
    assert run({10, 11, 20}, steps=22) == [5, 12, 15, 21, 22]


def test_no_checkpoint_is_written_after_a_run_has_diverged() -> None:
    assert run(range(7, 7 + MAX_SKIPPED)) == [5, -1]


def test_who_asks_to_stop_gets_a_checkpoint() -> None:
    assert run({7, 8}, stop_at=8) == [5, 8]


def test_only_rank_0_tells_what_all_ranks_know(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run({3}, rank=1)
        assert not caplog.records
        run({3})
    assert "step 3: the gradient is not finite" in caplog.text
