"""Refusal of a start before torch is loaded, where every rank finds the same: all of them are on one host."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from planner import Plan, Problem
from planner.exit_codes import ExitCode
from planner.plan.mismatch import VARIABLE
from planner.units import plural
from runtime.process.gpu_presence import has_gpu
from runtime.process.rank_0_wait import leave_to_rank_0
from runtime.process.start import Start
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter


def refuse_early(start: Start, folder: Path | None, command: Sequence[str]) -> None:
    """Ends the process with code 2 if it, and with it every other, has a Problem.

    Ranks on several hosts may have different files: they agree through the store, once torch is loaded.
    Without a GPU nothing can run here, so no attempt is claimed; a generated launch wants its failed.json.

    Args:
        folder: of the run.
        command: strategy and overrides, as written.
    """
    identity = start.identity
    if not identity.is_on_one_host:
        return
    missing = _missing_gpus(start.plan, command)
    if not start.problems and not missing:
        return
    if identity.rank > 0:
        leave_to_rank_0(ExitCode.WRONG_INPUT)
    reporter = ExitReporter(context=RunContext(start=start, folder=folder))
    if missing:
        reporter.print_problems(missing)
        if not os.environ.get(VARIABLE):
            sys.exit(ExitCode.WRONG_INPUT)
    sys.exit(reporter.invalid_input((*start.problems, *missing), are_printed=True))


def _missing_gpus(plan: Plan | None, command: Sequence[str]) -> tuple[Problem, ...]:
    if plan is None or plan.strategy.cluster.gpu.is_cpu or has_gpu():
        return ()
    hosts = (
        f"{plural(len(plan.hosts), 'host')} with up to {plan.host_size}" if len(plan.hosts) > 1 else "1 host"
    )
    return (
        Problem(
            code="SW901",
            path="cluster.gpu",
            found=f"{plan.strategy.parallel.layout_name} needs {plural(plan.world_size, 'GPU')}, on {hosts}; "
            "this host has no GPU",
            expected="a GPU for each local rank",
            fix=f"here, `python -m launch plan {shlex.join(command)}` shows what to expect of it; "
            "train it on hosts with GPUs, or train ds_configs/tiny_staged_cpu.yaml here, which needs none",
        ),
    )
