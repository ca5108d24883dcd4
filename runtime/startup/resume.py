"""Resume: the checkpoint to start from, decided by rank 0 from `output.resume`."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from planner import Plan, Problem, StrategyError, load
from planner.plan.fingerprint import MODEL_EXCEPT, RECIPE_EXCEPT, forced_recipe
from planner.run_files import STEPS_NAME
from planner.strategy.schema import Strategy
from planner.yaml12_writer import flow_yaml
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.compatibility import Fingerprints, meta_faults
from runtime.checkpoint.manifest import CheckpointError, CheckpointInfo
from runtime.checkpoint.store import newest
from runtime.data.cache import TOKENIZER_NAME
from runtime.files.json_lines import read_steps
from runtime.startup.outcome_files import is_done
from runtime.training.loss_guard import WINDOW

logger = logging.getLogger(__name__)

DATA_CHANGED = "the files of the data changed"
TAIL_BYTES = 4 << 20  # of telemetry.jsonl: some thousand steps


def find_start(plan: Plan, run_folder: Path, prints: Fingerprints) -> CheckpointInfo | None:
    """The checkpoint to resume from; None for a fresh start.

    Raises:
        StrategyError: if `output.resume` rules out what the folder holds, or the model or recipe differs.
    """
    output = plan.strategy.output
    own = _newest(run_folder)
    if output.resume == "never":
        if own is not None or _has_telemetry(run_folder):
            raise _refuse(
                "SW821",
                f"{run_folder} already holds a run",
                "an empty folder, as resume: never requires",
                "choose another name, move the folder aside, or set output.resume=auto",
            )
        return None
    if own is not None:
        # A branch that was interrupted resumes from its own checkpoints.
        _check(plan, own, prints, recipe=True)
        _refuse_going_back(output.resume, run_folder, own)
        return own
    if output.resume == "auto":
        _warn_of_lost_checkpoints(plan, run_folder)
        return None
    if output.resume == "require":
        raise _refuse(
            "SW822",
            f"{run_folder} holds no checkpoint",
            "a checkpoint of this run, as resume: require demands",
            "check output.folder and name, or set output.resume=auto",
        )
    source = Path(output.resume)
    found = _newest(source)
    if found is None:
        raise _refuse(
            "SW822",
            f"{source} holds no checkpoint",
            "the folder of a run or of a checkpoint",
            f"check output.resume (relative paths start at {Path.cwd()})",
        )
    _check(plan, found, prints, recipe=not output.branch)
    if found.step >= plan.strategy.training.steps:
        raise _refuse(
            "SW826",
            f"{found.folder} is at step {found.step}, and {_last_step(plan)}",
            "a checkpoint with steps left to train",
            _longer(plan, found.step),
        )
    return found


def _last_step(plan: Plan) -> str:
    training = plan.strategy.training
    follows = "" if training.tokens is None else " (from training.tokens)"
    return f"training.steps is {training.steps}{follows}"


def _longer(plan: Plan, step: int) -> str:
    """The key that is written, steps or tokens, set so that steps are left after `step`."""
    training = plan.strategy.training
    if training.tokens is None:
        return f"set training.steps above {step}"
    return f"set training.tokens above {step * training.global_batch * training.seq_length}"


def _refuse_going_back(resume: str, run_folder: Path, newest_one: CheckpointInfo) -> None:
    """A strategy that names an older step of its own run would start there again after every restart."""
    named = Path(resume).resolve()
    is_own_step = named.parent == (run_folder / CHECKPOINTS_NAME).resolve()
    if is_own_step and named != newest_one.folder.resolve():
        raise _refuse(
            "SW827",
            f"{resume} is not the newest checkpoint of this run; that is {newest_one.folder.name}",
            "auto, or a checkpoint of another run",
            "branch from it (output.branch=true name=NEW), or move the newer ones aside and set "
            "output.resume=auto",
        )


def _newest(folder: Path) -> CheckpointInfo | None:
    try:
        return newest(folder)
    except CheckpointError as error:
        raise _refuse(
            error.code,
            error.text,
            "at least one intact checkpoint, or none at all",
            "restore one from a backup, or move the folder aside to start from scratch",
        ) from error


def _check(plan: Plan, info: CheckpointInfo, prints: Fingerprints, *, recipe: bool) -> None:
    if faults := meta_faults(info.meta):
        raise _refuse(
            "SW802",
            f"{info.folder}/manifest.json: {faults[0]}",
            "a checkpoint that a run wrote",
            "restore it from a backup, or move it aside to resume from the one before it",
        )
    if info.meta.model_fingerprint != prints.model:
        changed = _changed(plan, _strategy_of(info), "model", except_for=MODEL_EXCEPT)
        if not changed:
            raise _another_tokenizer(plan, info)
        raise _refuse(
            "SW824",
            f"{info.folder} was trained with another model: {changed}",
            "the same model section (but dispatch, capacity_factor, initialization) and the same tokenizer",
            "restore those keys, or choose another name",
        )
    if recipe and info.meta.recipe_fingerprint != prints.recipe:
        # The model is the same, so what differs in its section is what belongs to the recipe.
        theirs = _strategy_of(info)
        changed = _changed(plan, theirs, "training", "model", "data", except_for=RECIPE_EXCEPT)
        parts = (changed, *(() if theirs is None else _changed_runtime(plan, theirs)))
        changed = "; ".join(part for part in parts if part) or DATA_CHANGED
        raise _refuse(
            "SW825",
            f"{info.folder} was trained with another training recipe: {changed}",
            "the same data, the same training section (but steps and micro_batch), runtime.force_routing and "
            "runtime.fp8_payload",
            "restore those keys, choose another name, or branch: "
            f"output.resume={info.folder.parent.parent} output.branch=true name=NEW",
        )


def _another_tokenizer(plan: Plan, info: CheckpointInfo) -> StrategyError:
    """The refusal of a tokenizer that was trained on other data, or of another file."""
    run, step = info.folder.parent.parent, info.step
    tokenizer = plan.strategy.data.tokenizer
    changed = _changed(plan, _strategy_of(info), "data", except_for=frozenset()) or DATA_CHANGED
    if tokenizer is None:
        found = f"data.tokenizer is null, so a tokenizer is trained on the data, and {changed}"
    else:
        found = f"the tokenizer {tokenizer} has other tokens: {changed}"
    fix = (
        "restore the data, or train on these from the checkpoint in a branch, with its tokenizer: "
        f"data.tokenizer={run}/{TOKENIZER_NAME} output.resume={run} output.branch=true name=NEW"
    )
    if step >= plan.strategy.training.steps:
        fix += f" training.steps={step + plan.strategy.training.steps}"
    return _refuse(
        "SW828", f"{info.folder} was trained with another tokenizer: {found}", "the same tokenizer", fix
    )


def _strategy_of(info: CheckpointInfo) -> Strategy | None:
    """The strategy.yaml of the checkpoint's run."""
    try:
        return load(info.folder.parent.parent / "strategy.yaml")
    except StrategyError:
        return None


def _changed(plan: Plan, kept: Strategy | None, *sections: str, except_for: frozenset[str]) -> str:
    """The keys that differ from those of the checkpoint's run, for a message."""
    if kept is None:
        return "which keys differ is unknown, because its strategy.yaml is missing"
    theirs, ours = kept.model_dump(), plan.strategy.model_dump()
    return "; ".join(
        f"{section}.{key} was {flow_yaml(theirs[section].get(key))}, now {flow_yaml(value)}"
        for section in sections
        for key, value in ours[section].items()
        if key not in except_for and theirs[section].get(key) != value
    )


def _changed_runtime(plan: Plan, kept: Strategy) -> Iterator[str]:
    """The keys of `runtime` that belong to a recipe, where they differ."""
    theirs, ours = (forced_recipe(strategy) for strategy in (kept, plan.strategy))
    if theirs != ours:
        was, now = ("none" if routing is None else _written(routing) for routing in (theirs, ours))
        yield f"runtime.force_routing was {was}, now {now}"
    before, after = kept.runtime.fp8_payload, plan.strategy.runtime.fp8_payload
    if before != after:
        yield f"runtime.fp8_payload was {flow_yaml(before)}, now {flow_yaml(after)}"


def _written(routing: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in routing.items() if value is not None) + "}"


def recent_losses(start: CheckpointInfo | None) -> tuple[float, ...]:
    """The losses of the last steps before a checkpoint's end, oldest first, from its run's telemetry."""
    if start is None:
        return ()
    steps: dict[int, dict[str, Any]] = {}
    with suppress(OSError):
        steps = read_steps(start.folder.parent.parent / STEPS_NAME, tail_bytes=TAIL_BYTES)
    losses = [line.get("loss") for step, line in steps.items() if step <= start.step]
    return tuple(float(loss) for loss in losses if isinstance(loss, (int, float)))[-WINDOW:]


def _warn_of_lost_checkpoints(plan: Plan, run_folder: Path) -> None:
    """Before a run that has trained past a checkpoint, or to its end, starts again at step 1.

    Not before one that was ended earlier: it has no checkpoint to lose.
    """
    every, has_ended = plan.strategy.output.checkpoint_every, is_done(run_folder)
    step = _last_trained_step(run_folder)
    if has_ended or (every is not None and step > every):
        logger.warning(
            "SW829 %s holds no checkpoint, but a run that trained to %s: training starts again at step "
            "1; to continue instead, stop, restore a checkpoint into %s, and start again",
            run_folder,
            f"step {step:,}" if step else "its end",
            run_folder / CHECKPOINTS_NAME,
        )


def _last_trained_step(run_folder: Path) -> int:
    """The last step of the run's telemetry; 0 if there is none, or nothing that can be read."""
    with suppress(OSError):
        return max(read_steps(run_folder / STEPS_NAME), default=0)
    return 0


def _has_telemetry(run_folder: Path) -> bool:
    return (run_folder / STEPS_NAME).exists()


def _refuse(code: str, found: str, expected: str, fix: str) -> StrategyError:
    problem = Problem(code=code, path="output.resume", found=found, expected=expected, fix=fix)
    return StrategyError((problem,))
