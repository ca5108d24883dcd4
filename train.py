"""One rank, from the strategy to the trained model. Started by `deepspeed train.py --strategy FILE [key=value …]`.

The story, top to bottom: read the strategy and derive the plan; check, and agree with all ranks, before any
group is joined; make the groups, this rank's part of the model and its engine; go on from a checkpoint if
there is one; train; say how it ended. What happens inside each step is in runtime/.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from planner import Plan, Problem, StrategyError, build_plan, load
from planner.environment import apply_environment
from planner.runnable import runnable
from runtime.identity import Identity, identify

DOCUMENT_STRATEGY = "ds_configs/ep64_tp2_staged.yaml"
# The strategy document's names for the same keys.
DOCUMENT_FLAGS = {
    "ep_degree": "parallel.ep",
    "tp_degree": "parallel.tp",
    "pp_degree": "parallel.pp",
    "batch_size": "training.global_batch",
    "seq_length": "training.seq_length",
}


def parse_arguments(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The strategy's path and its overrides. Leaves with exit code 2 on a wrong command line."""
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--strategy", metavar="FILE", help="the strategy to train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the strategy")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by launchers; the environment counts")
    for flag, key in DOCUMENT_FLAGS.items():
        parser.add_argument(f"--{flag}", metavar="N", help=f"the same as {key}=N")
    arguments = parser.parse_intermixed_args(argv)
    given = {key: getattr(arguments, flag) for flag, key in DOCUMENT_FLAGS.items()}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    if arguments.strategy is None and not overrides:
        parser.error(f"--strategy FILE is required, for example --strategy {DOCUMENT_STRATEGY}")
    return arguments.strategy or DOCUMENT_STRATEGY, overrides + arguments.overrides


def make_plan(path: str, overrides: Sequence[str], identity: Identity) -> tuple[Plan | None, tuple[Problem, ...]]:
    """The plan, and what keeps it from being trained by these processes in this version."""
    try:
        plan = build_plan(apply_environment(load(path, overrides)))
    except StrategyError as error:
        return None, error.problems
    problems = list(runnable(plan.strategy))
    if identity.world_size < plan.world_size:
        started = f"{identity.world_size} process" + "es" * (identity.world_size != 1)
        problems.append(
            Problem(
                path="parallel",
                line=None,
                file=path,
                found=f"{plan.strategy.parallel.short_name} needs {plan.world_size} ranks; {started} started",
                expected=f"{plan.world_size} processes, one a rank",
                fix=f"start it with deepspeed --num_gpus {plan.world_size} train.py …, or change the degrees",
            )
        )
    return plan, tuple(problems)


def main(argv: Sequence[str]) -> int:
    """Returns the exit code of one rank: 0 done, 2 wrong input, 3 broke, 130 stopped on request."""
    path, overrides = parse_arguments(argv)
    try:
        identity = identify()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    plan, problems = make_plan(path, overrides, identity)
    if plan is not None:
        if identity.rank >= plan.world_size:
            return 0  # launchers start whole hosts; the plan's last host may be partial
        if plan.strategy.cluster.gpu.is_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
    if problems and identity.rank == 0:
        print("\n".join(map(str, problems)), file=sys.stderr, flush=True)

    # From here on torch is loaded, which takes seconds; a mistake in the strategy was told before.
    from runtime.rank import run_rank

    return run_rank(identity, plan, problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
