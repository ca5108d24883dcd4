"""Start of a rank before torch is loaded: identity, plan, Problems found so far, process environment.

train.py and runtime.probe begin with it, so that a mistake in the strategy is printed within a second.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from planner import Plan, Problem, Strategy, StrategyError, build_plan, load, locate_problems
from planner.exit_codes import ExitCode
from planner.plan.mismatch import find_launch_problems
from planner.standard_streams import open_streams_of_run
from planner.units import plural
from runtime.process.identity import Identity, LauncherError, identify
from runtime.process.launchers import TORCH_VARIABLES, Launcher
from runtime.process.library_environment import set_library_environment
from runtime.process.rank_0_wait import leave_to_rank_0
from runtime.process.rank_log import open_rank_log
from runtime.process.start_command import start_command


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a rank was started with. `plan` is None when the strategy has Problems, which are `problems`."""

    identity: Identity
    plan: Plan | None
    problems: tuple[Problem, ...]

    @property
    def run_folder(self) -> Path | None:
        """`output.folder`/`name`; None without a plan."""
        if self.plan is None:
            return None
        return Path(self.plan.strategy.output.folder) / self.plan.strategy.name

    def locate(self, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        """Problems of keys, each with the file and line (or override) of its key."""
        return tuple(problems) if self.plan is None else locate_problems(problems, self.plan.strategy)


def start_rank(
    path: str,
    overrides: Sequence[str],
    *,
    how: str,
    check: Callable[[Strategy], Iterable[Problem]] = lambda strategy: (),
    rank_logs: str | None = None,
) -> Start:
    """Derives the plan and prepares this process for torch. Rank 0 prints the Problems.

    Ends the process with code 2 if the launcher's variables are wrong, and with 0 on ranks beyond the plan's
    world: launchers start full hosts, and the plan's last host may be a partial one.

    Args:
        how: how the program is started, for who started it otherwise.
        check: what keeps a strategy from running in this program, beside the rules.
        rank_logs: how the names of the ranks' logs begin; None: they write to the launcher's terminal.
    """
    open_streams_of_run()
    try:
        identity = identify(how=how)
    except LauncherError as error:
        if not error.is_first:
            leave_to_rank_0(ExitCode.WRONG_INPUT)
        print(error, file=sys.stderr, flush=True)
        sys.exit(ExitCode.WRONG_INPUT)
    log_problem = None if rank_logs is None else open_rank_log(rank_logs, identity.rank, identity.host)
    plan, problems = make_plan(path, overrides, identity, check)
    problems = (*problems, *(() if log_problem is None else (log_problem,)))
    if plan is not None and identity.rank >= plan.world_size:
        _end_beyond_world(plan, identity)
    if identity.rank == 0 and problems:
        print("\n".join(map(str, problems)), file=sys.stderr, flush=True)
    _set_environment(plan, identity)
    return Start(identity=identity, plan=plan, problems=problems)


def _end_beyond_world(plan: Plan, identity: Identity) -> NoReturn:
    """Ends a rank that the plan has no work for; the first of them says so for all."""
    first, last = plan.world_size, identity.world_size - 1
    if identity.rank == first:
        who = f"rank {first} has" if first == last else f"ranks {first}-{last} have"
        print(f"the plan has {plural(first, 'rank')}: {who} nothing to do and ended", flush=True)
    sys.exit(ExitCode.OK)


def make_plan(
    path: str, overrides: Sequence[str], identity: Identity, check: Callable[[Strategy], Iterable[Problem]]
) -> tuple[Plan | None, tuple[Problem, ...]]:
    """The plan, None if the strategy has Problems; and what keeps these processes from running it."""
    try:
        plan = build_plan(load(path, overrides))
    except StrategyError as error:
        return None, error.problems
    found = (*find_launch_problems(plan), *locate_problems(check(plan.strategy), plan.strategy))
    return plan, (*found, *_too_few_processes(plan, identity, path))


def _too_few_processes(plan: Plan, identity: Identity, path: str) -> tuple[Problem, ...]:
    if identity.world_size >= plan.world_size:
        return ()
    started = f"{identity.world_size} process{'es were' if identity.world_size > 1 else ' was'} started"
    return (
        Problem(
            code="SW602",
            path="parallel",
            file=path,
            found=f"{plan.strategy.parallel.layout_name} has {plan.world_size} ranks; {started}",
            expected=f"{plan.world_size} processes, one per rank",
            fix=f"start it with {start_command(plan, identity.launcher)}, or change the degrees",
        ),
    )


def _set_environment(plan: Plan | None, identity: Identity) -> None:
    """What must be set before torch is loaded: logs, threads, the accelerator."""
    who = "" if identity.rank == 0 else f"[{identity}] "
    logging.basicConfig(format=f"{who}%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # torch 2.13 deprecates a name that DeepSpeed 0.19.8 calls: nothing a user could act on.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    set_library_environment(is_cpu=plan is not None and plan.strategy.cluster.gpu.is_cpu)
    # DeepSpeed 0.19.8 requires it (engine.py:1972), and under a plain `python train.py` nobody sets it.
    os.environ.setdefault("LOCAL_RANK", str(identity.local_rank))
    if identity.is_launched:
        # What torch, DeepSpeed and the ranks' own store read; srun and mpirun have other names for it.
        for name, value in zip(
            TORCH_VARIABLES, (identity.rank, identity.world_size, identity.local_rank), strict=True
        ):
            os.environ.setdefault(name, str(value))
        os.environ.setdefault("MASTER_ADDR", identity.master_addr)
        os.environ.setdefault("MASTER_PORT", str(identity.master_port))
    if identity.launcher is not Launcher.TORCHRUN:
        os.environ.pop(
            "TORCHELASTIC_USE_AGENT_STORE", None
        )  # an outer torchrun's store is not of these ranks
