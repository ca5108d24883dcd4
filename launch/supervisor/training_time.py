"""Effective training time of a supervised run, from what was measured in it."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from launch.supervisor.recovery import Recovery
from planner import Plan
from planner.files import read_file
from planner.prediction.training_time import CheckpointCosts
from planner.run_files import STEPS_NAME
from planner.units import format_seconds, plural

# Between two failures of a run: a very bad day, and a bad cluster of a few thousand GPUs.
MTBFS_S = (600.0, 3 * 3600.0)


def describe_training_time(
    plan: Plan, run_folder: Path, recoveries: Sequence[Recovery]
) -> tuple[str, list[dict[str, float]]] | None:
    """A line, and the same for programs; None where no recovery, step or save was measured.

    Where steps wait until a checkpoint is complete, stall and write are the same seconds. With
    output.async_save nothing here sees when it is: at the latest when the next one is due.
    """
    steps = list(_read_steps(run_folder))
    stalls = list(save_stalls_s(steps, plan.strategy.output.checkpoint_every))
    if not recoveries or not stalls:
        return None
    step_s = median(line["step_s"] for line in steps)
    interval_s = plan.strategy.output.checkpoint_every * step_s
    mtbf_s = plan.strategy.cluster.mtbf
    own = () if mtbf_s is None else (mtbf_s / plan.world_size,)
    texts, facts = [], []
    for between_s in (*MTBFS_S, *own):
        costs = CheckpointCosts(
            stall_s=median(stalls),
            write_s=interval_s if plan.strategy.output.async_save else median(stalls),
            recovery_s=fmean(recovery.restart_s for recovery in recoveries),
            mtbf_s=between_s,
        )
        best_steps = max(1, round(costs.best_interval_s / step_s))
        ratio, best = (
            costs.training_time_ratio(interval_s),
            costs.training_time_ratio(best_steps * step_s),
        )
        facts.append(
            {
                "mtbf_s": between_s,
                "stall_s": costs.stall_s,
                "recovery_s": costs.recovery_s,
                "interval_s": interval_s,
                "effective_training_time_ratio": ratio,
                "best_interval_s": costs.best_interval_s,
                "best_effective_training_time_ratio": best,
            }
        )
        texts.append(
            f"one in {format_seconds(between_s)}: {ratio:.1%} (best: {plural(best_steps, 'step')} between "
            f"checkpoints, {best:.1%})"
        )
    every = plural(plan.strategy.output.checkpoint_every, "step")
    return (
        f"effective training time with a checkpoint every {every}, {median(stalls):.2f} s for a save and "
        f"{facts[0]['recovery_s']:.1f} s for a restart, at failures {'; '.join(texts)}",
        facts,
    )


def save_stalls_s(steps: Sequence[dict[str, Any]], checkpoint_every: int) -> Iterator[float]:
    """Seconds of each save: between the lines of two steps there are the save and the second step.

    Args:
        steps: lines of telemetry.jsonl.
    """
    for before, after in pairwise(steps):
        follows = after["attempt"] == before["attempt"] and after["step"] == before["step"] + 1
        is_saved = before["step"] % checkpoint_every == 0
        if follows and is_saved and after["validation_loss"] is None:
            yield max(0.0, after["time"] - before["time"] - after["step_s"])


def _read_steps(run_folder: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = read_file(run_folder / STEPS_NAME).split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            content = json.loads(line)
            content["attempt"] + content["step"] + content["time"] + content["step_s"]
            content["validation_loss"]
        except (ValueError, TypeError, KeyError, RecursionError):  # cut off by a kill
            continue
        yield content
