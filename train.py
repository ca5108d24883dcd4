"""One rank, from the strategy to the trained model: `deepspeed train.py --strategy FILE [key=value …]`.

The story, top to bottom: read the strategy and derive the plan; check, and agree with all ranks, before any
group is joined; make the groups, this rank's part of the model and its engine; go on from a checkpoint if
there is one; train; say how it ended. What a step is made of stands in runtime/.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner import Plan, Problem, StrategyError, build_plan, load, locate_problems
from planner.plan.mismatch import find_launch_problems
from planner.rules.not_implemented import find_unimplemented
from runtime.process.identity import Identity, identify
from runtime.process.stop_signals import StopRequest, block_signals

if TYPE_CHECKING:
    from runtime.startup.consensus import Verdict
    from runtime.startup.outcome import Ending

DOCUMENT_STRATEGY = "ds_configs/ep64_tp2_staged.yaml"
# The strategy document's flags, and the keys they mean.
DOCUMENT_FLAGS = {
    "ep_degree": "parallel.ep",
    "tp_degree": "parallel.tp",
    "pp_degree": "parallel.pp",
    "batch_size": "training.global_batch",
    "seq_length": "training.seq_length",
}


def main(argv: Sequence[str]) -> None:
    """Ends the process: 0 done, 2 wrong input, 3 broke, 130 stopped on request."""
    path, overrides = parse_arguments(argv)
    try:
        identity = identify()
    except ValueError as error:
        how = "start it with deepspeed, torchrun, or plain python for a plan of one rank"
        print(f"{error}\n{how}", file=sys.stderr)
        sys.exit(2)
    plan, problems = make_plan(path, overrides, identity)
    if plan is not None and identity.rank >= plan.world_size:
        sys.exit(0)  # launchers start whole hosts; the plan's last host may be a partial one
    if identity.rank == 0 and problems:
        print("\n".join(map(str, problems)), file=sys.stderr, flush=True)
    prepare_process(plan, identity)

    # torch is loaded from here on, which takes seconds: mistakes in the strategy were told before.
    from runtime.startup.outcome import Ending

    ending = Ending(identity=identity)
    if plan is not None:
        ending.locate = lambda found: locate_problems(found, plan.strategy)
    try:
        code = run(plan, problems, identity, ending)
    except Exception as error:
        code = ending.failed(error)
    ending.leave(code)


def run(plan: Plan | None, problems: Sequence[Problem], identity: Identity, ending: "Ending") -> int:
    """Agrees with the other ranks on what to do, and does it."""
    from runtime.startup.consensus import agree
    from runtime.startup.open_run import open_run, run_folder_of

    stop = StopRequest(ending.stop_now)
    if plan is not None:
        ending.run_folder = run_folder_of(plan)
    verdict = agree(plan, problems, identity, ending, stop, open_run)
    if verdict.exit_code is not None:
        return verdict.exit_code
    assert plan is not None, "no rank goes on without a plan"
    return train(plan, identity, verdict, ending, stop)


def train(plan: Plan, identity: Identity, verdict: "Verdict", ending: "Ending", stop: StopRequest) -> int:
    """Groups, model, engine, checkpoint, steps."""
    from runtime.checkpoint.compatibility import fingerprints
    from runtime.checkpoint.save_restore import Saver, restore
    from runtime.data import open_data
    from runtime.parallel.device import (
        join_world,
        mean_over_world,
        peak_memory_bytes,
        sum_over_world,
        take_device,
    )
    from runtime.parallel.groups import make_groups
    from runtime.profiling.phase_clock import PhaseClock
    from runtime.profiling.timestamps import stamps_of
    from runtime.startup.attempts import holds
    from runtime.startup.consensus import agree_on_groups
    from runtime.startup.open_run import TOKENIZER_NAME
    from runtime.telemetry.reporter import Teller
    from runtime.telemetry.step_timeline import Timeline
    from runtime.training.engine import make_engine
    from runtime.training.loop import Loop
    from runtime.training.training_model import build_model

    folder, attempt = ending.run_folder, verdict.attempt
    ending.attempt = attempt
    device = take_device(plan, identity)
    join_world(plan, identity, ending.store, device)
    data = open_data(plan.strategy, entry=Path(verdict.entry))
    clock = PhaseClock(stamps_of(device))
    groups = make_groups(plan, identity.rank, clock)
    engine = agree_on_groups(
        lambda: make_engine(build_model(plan, groups, device), plan, groups, clock),
        plan,
        identity,
        ending,
        device,
    )
    done = restore(Path(verdict.checkpoint), engine, groups) if verdict.checkpoint else 0
    ending.checkpoint = done or None
    saver = Saver(
        plan=plan,
        engine=engine,
        groups=groups,
        folder=folder / "checkpoints",
        files={TOKENIZER_NAME: folder / TOKENIZER_NAME},
        prints=fingerprints(plan, data),
        attempt=attempt,
        horizon=verdict.horizon,
        end_of_text=data.end_of_text,
        holds=lambda: holds(folder, attempt),
    )
    teller = Teller(
        plan, folder, identity.rank, attempt=attempt, first_step=done + 1, device_type=device.type
    )

    def save(step: int) -> None:
        saver.save(step, teller.result())
        ending.checkpoint = step

    with teller:
        loop = Loop(
            plan=plan,
            engine=engine,
            groups=groups,
            data=data,
            clock=clock,
            stop=stop,
            tell=teller.step,
            save=save,
            first_step=done + 1,
            horizon=verdict.horizon,
            timeline=Timeline(plan=plan, rank=identity.rank, folder=folder, attempt=attempt, done=done),
        )
        last_step = loop.run()
    if last_step < plan.strategy.training.steps:
        return ending.stopped(
            f"asked to by {stop.asked or 'a signal to another rank'} after step {last_step}"
        )
    result = teller.result() | {
        "peak_memory_bytes": sum_over_world(peak_memory_bytes(device), device),
        "stage_wait_share": mean_over_world(teller.stage_wait_share(), device),
    }
    if identity.rank == 0:
        result["picture"] = teller.pictures().name
        teller.farewell(result)
    return ending.done(result)


def make_plan(
    path: str, overrides: Sequence[str], identity: Identity
) -> tuple[Plan | None, tuple[Problem, ...]]:
    """The plan, and what keeps these processes, in this version, from training it."""
    try:
        plan = build_plan(load(path, overrides))
    except StrategyError as error:
        return None, error.problems
    problems = [
        *find_launch_problems(plan),
        *locate_problems(find_unimplemented(plan.strategy), plan.strategy),
    ]
    if identity.world_size < plan.world_size:
        started = f"{identity.world_size} process{'es were' if identity.world_size > 1 else ' was'} started"
        problems.append(
            Problem(
                path="parallel",
                line=None,
                file=path,
                found=f"{plan.strategy.parallel.short_name} has {plan.world_size} ranks; {started}",
                expected=f"{plan.world_size} processes, one a rank",
                fix=f"start it with deepspeed --num_gpus {plan.world_size} train.py …, or change the degrees",
            )
        )
    return plan, tuple(problems)


def prepare_process(plan: Plan | None, identity: Identity) -> None:
    """What must be set before torch is loaded: who takes signals, threads, logs, the accelerator."""
    block_signals()
    who = "" if identity.rank == 0 else f"[{identity}] "
    logging.basicConfig(format=f"{who}%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # torch 2.13 deprecates a name that DeepSpeed 0.19.8 calls: nothing a user could act on.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # DeepSpeed 0.19.8 insists on it (engine.py:1972), and a plain `python train.py` has nobody who set it.
    os.environ.setdefault("LOCAL_RANK", str(identity.local_rank))
    if plan is not None and plan.strategy.cluster.gpu.is_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"


def parse_arguments(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The strategy's path and its overrides. Leaves with exit code 2 on a wrong command line."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train a strategy.", allow_abbrev=False)
    parser.add_argument("--strategy", metavar="FILE", help="the strategy to train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the strategy")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    for flag, key in DOCUMENT_FLAGS.items():
        parser.add_argument(f"--{flag}", metavar="N", help=f"the same as {key}=N")
    arguments = parser.parse_intermixed_args(argv)
    given = {key: getattr(arguments, flag) for flag, key in DOCUMENT_FLAGS.items()}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    if arguments.strategy is None and not overrides:
        parser.error(f"--strategy FILE is required, for example --strategy {DOCUMENT_STRATEGY}")
    return arguments.strategy or DOCUMENT_STRATEGY, overrides + arguments.overrides


if __name__ == "__main__":
    main(sys.argv[1:])
