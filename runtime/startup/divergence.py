"""Divergence of a run, as it is reported: the steps, their training sequences, the checkpoint before them."""

from pathlib import Path
from typing import Any

from planner import Plan, Problem
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.commit import saved_steps, step_name
from runtime.training.loss_guard import Diverged

MAX_PRINTED = 32  # sequences in the printed line; failed.json has all


def divergence_problem(error: Diverged, plan: Plan, run_folder: Path) -> Problem:
    """
    The step before the first that went wrong made the weights that went wrong, so its checkpoint is not
    proposed.
    """
    strategy, checkpoints = plan.strategy, run_folder / CHECKPOINTS_NAME
    sound = [step for step in saved_steps(checkpoints) if step < error.first_step - 1]
    other = f"name={strategy.name}-2 training.learning_rate={strategy.training.learning_rate / 2:g}"
    if sound:
        fix = (
            f"branch from the checkpoint of step {sound[-1]} with a lower learning rate, for example "
            f"output.resume={checkpoints / step_name(sound[-1])} output.branch=true {other}"
        )
    else:
        fix = f"no checkpoint is from before it: start again with a lower learning rate, for example {other}"
    if error.code == "SW957":
        fix += f"; or train past it: training.steps={plan.strategy.training.steps + 1}"
    printed = ", ".join(map(str, error.sequences[:MAX_PRINTED]))
    rest = f" and {len(error.sequences) - MAX_PRINTED} more" if len(error.sequences) > MAX_PRINTED else ""
    read = f"; step {error.first_step} read the training sequences {printed}{rest}" if printed else ""
    return Problem(code=error.code, found=error.found + read, expected=error.expected, fix=fix)


def divergence_json(error: Diverged, problem: Problem) -> dict[str, Any]:
    """The Problem as in failed.json, with the first step that went wrong and everything it read."""
    return {**problem.as_json(), "step": error.first_step, "sequences": list(error.sequences)}
