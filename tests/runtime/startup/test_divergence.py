"""Which checkpoint a run that diverged proposes, and what failed.json says."""

from pathlib import Path

import pytest

from planner import build_plan, loads
from runtime.startup.divergence import MAX_PRINTED, divergence_json, divergence_problem
from runtime.training.loss_guard import Diverged
from tests.runtime.startup.test_resume import STRATEGY

PLAN = build_plan(loads(STRATEGY, ("name=x", "training.learning_rate=4e-3")))


def diverged(first_step: int, code: str = "SW955", num_sequences: int = 2) -> Diverged:
    error = Diverged(code, first_step=first_step, found="the loss is not finite", expected="a finite loss")
    error.sequences = list(range(100, 100 + num_sequences))
    return error


@pytest.mark.parametrize(
    ("saved", "first_step", "proposed"),
    [
        ((10, 20, 30), 35, 30),
        ((10, 20, 30), 31, 20),  # the weights of step 30 gave the loss of step 31
        ((30,), 31, None),
        ((), 5, None),
    ],
)
def test_the_proposed_checkpoint_is_older_than_the_weights_that_went_wrong(
    tmp_path: Path, saved: tuple[int, ...], first_step: int, proposed: int | None
) -> None:
    for step in saved:
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    fix = divergence_problem(diverged(first_step), PLAN, tmp_path).fix
    assert "name=x-2 training.learning_rate=0.002" in fix
    if proposed is None:
        assert fix.startswith("no checkpoint is from before it")
        assert "output.resume" not in fix
    else:
        folder = tmp_path / "checkpoints" / f"step-{proposed:08d}"
        assert f"output.resume={folder} output.branch=true name=x-2" in fix


def test_a_skipped_last_step_can_be_passed(tmp_path: Path) -> None:
    assert (
        f"training.steps={PLAN.strategy.training.steps + 1}"
        in divergence_problem(diverged(12, "SW957"), PLAN, tmp_path).fix
    )


def test_the_line_has_some_of_many_sequences_and_failed_json_has_all(tmp_path: Path) -> None:
    error = diverged(9, num_sequences=MAX_PRINTED + 5)
    problem = divergence_problem(error, PLAN, tmp_path)
    assert "step 9 read the training sequences 100, 101, " in problem.found
    assert problem.found.endswith("131 and 5 more")
    content = divergence_json(error, problem)
    assert (content["code"], content["step"], len(content["sequences"])) == ("SW955", 9, 37)
