"""Opening of a run by rank 0: data, the checkpoint to resume from, the claim, the run's files."""

import os
import shutil
import sys
from pathlib import Path

from planner import Plan, StrategyError
from planner.exit_codes import ExitCode
from planner.files import replace
from planner.memory.fit import memory_warning
from planner.plan.notes import forced_routing_warning
from planner.plan.operator_env import read_environment
from planner.plan.serialization import ds_config_json, plan_json, strategy_yaml
from planner.run_holder import find_live_holder, held_problem, newest_claim
from runtime.checkpoint.compatibility import fingerprints
from runtime.checkpoint.manifest import CheckpointInfo
from runtime.checkpoint.save_restore import checkpoint_layout
from runtime.data import TokenData, open_data, prepare_data
from runtime.data.cache import TOKENIZER_NAME
from runtime.startup.claims import claim
from runtime.startup.consensus import StartDecision
from runtime.startup.context import RunContext
from runtime.startup.outcome_files import write_done
from runtime.startup.resume import find_start, recent_losses
from runtime.startup.run_folder import find_folder_problems
from runtime.telemetry.wandb_log import find_wandb_problems


def open_run(context: RunContext) -> StartDecision:
    """What all ranks will do. Writes the run's files once nothing can be refused any more.

    From the claim on `context` has the attempt, so that an error after it is written to failed.json too.

    Raises:
        StrategyError: with what is wrong with the data, the folder or the operator's variables.
    """
    plan, folder = context.plan, context.folder
    assert folder is not None, "a plan names its folder"
    strategy = plan.strategy
    operator = read_environment(plan, os.environ)
    too_large = memory_warning(plan, operator.memory_limit_bytes)
    forced = forced_routing_warning(strategy)
    for warning in (*operator.warnings, *(line for line in (too_large, forced) if line)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    # Before the data, which may take hours.
    problems = (*find_folder_problems(folder, strategy.output.resume), *find_wandb_problems(strategy))
    if problems:
        raise StrategyError(problems)
    refuse_to_take(folder, takes_over=context.takes_over)
    seen = newest_claim(folder)
    entry = prepare_data(strategy)
    data = open_data(strategy, entry=entry)
    if line := data.describe():
        print(line, flush=True)
    prints = fingerprints(plan, data)
    start = find_start(plan, folder, prints)
    if newest_claim(folder) != seen:  # another start was faster
        refuse_to_take(folder, takes_over=context.takes_over)
    attempt = context.attempt = claim(folder, {"fingerprint": plan.fingerprint})
    _write_files(plan, folder, data, operator.values)
    is_own = start is not None and start.folder.parent.parent == folder
    horizon = horizon_of(plan, start, is_own=is_own)
    if start is not None:
        _print_resume(plan, start, horizon)
        if start.step >= strategy.training.steps:
            assert is_own, "find_start refuses another run that has nothing left to train"
            result = start.meta.extra.get("result", {})
            if not write_done(folder, {"attempt": attempt, "step": start.step, **result}):
                return StartDecision(exit_code=ExitCode.INTERNAL_ERROR, attempt=attempt)
            print(
                f"{folder} is finished: step {start.step} of {strategy.training.steps}",
                *_lines(result),
                sep="\n",
            )
            return StartDecision(exit_code=ExitCode.OK, attempt=attempt)
    return StartDecision(
        attempt=attempt,
        data_entry=str(entry),
        checkpoint="" if start is None else str(start.folder),
        horizon=horizon,
        recent_losses=recent_losses(start),
        fingerprints=prints,
    )


def refuse_to_take(folder: Path, *, takes_over: bool) -> None:
    """
    Raises:
        StrategyError: if another process trains the run, and it is not to be taken over.
    """
    holder = None if takes_over else find_live_holder(folder)
    if holder is not None:
        otherwise = "; or start with --take-over: it then loses what it has not saved"
        raise StrategyError([held_problem(folder, holder, otherwise=otherwise)])


def horizon_of(plan: Plan, start: CheckpointInfo | None, *, is_own: bool) -> int:
    """The cosine's last step: as written, else that of the first attempt, which the checkpoint keeps.

    Args:
        is_own: whether `start` is of this run; a branch's first attempt resumes from another run's.
    """
    training = plan.strategy.training
    if training.schedule_steps is not None:
        return training.schedule_steps
    if start is None or (plan.strategy.output.branch and not is_own):
        return training.steps
    return int(start.meta.counters["horizon"])


def _print_resume(plan: Plan, start: CheckpointInfo, horizon: int) -> None:
    print(f"resuming from {start.folder}", flush=True)
    written, now = start.meta.layout, checkpoint_layout(plan)
    changed = [
        f"{key} {_as_written(written.get(key))} → {_as_written(now[key])}"
        for key in now
        if written.get(key) != now[key]
    ]
    if changed:
        print(f"  saved with another layout, resharded: {', '.join(changed)}", flush=True)
    training = plan.strategy.training
    if training.steps > horizon:
        print(
            f"  the learning-rate schedule ends at step {horizon}; later steps use min_learning_rate",
            flush=True,
        )


def _as_written(value: object) -> str:
    return "null" if value is None else str(value)


def _lines(result: dict[str, object]) -> list[str]:
    return [f"  {key}: {value}" for key, value in result.items()]


def _write_files(plan: Plan, folder: Path, data: TokenData, environment: dict[str, str]) -> None:
    for name, text in {
        "strategy.yaml": strategy_yaml(plan),
        "plan.json": plan_json(plan, environment),
        "ds_config.json": ds_config_json(plan),
    }.items():
        replace(folder / name, text.encode())
    shutil.copyfile(data.tokenizer_file, folder / TOKENIZER_NAME)
