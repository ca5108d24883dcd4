"""The `run` command: supervised training."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import Overrides, StrategyFile
from launch.cli.output import CommandOutput
from planner import StrategyError, load, locate_problems
from planner.exit_codes import ExitCode
from planner.paths import PROJECT

if TYPE_CHECKING:
    from launch.supervisor.journal import Entry

HOOK_TIMEOUT_S = 30.0


@command
def run(
    output: CommandOutput,
    strategy: StrategyFile,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="move an old run of this name aside and start at step 1")
    ] = False,
) -> ExitCode:
    """Train under supervision: after a loss, replace the host and resume; journal.jsonl has each decision."""
    from launch.scripts.held_run import find_held_run
    from launch.scripts.hostfile import made_up_hosts
    from launch.scripts.launch_files import build_launch_plan, launch_paths
    from launch.supervisor.journal import Journal
    from launch.supervisor.run_lock import supervision
    from launch.supervisor.stop_requests import stop_requests
    from launch.supervisor.supervise import Supervisor

    loaded = load(strategy, only_overrides(overrides))
    plan = build_launch_plan(loaded)
    folder = launch_paths(plan).run
    if fresh and (code := _set_aside(str(folder))) != ExitCode.OK:
        return code
    # No limits: a run that is being trained is refused whatever they are, by its lock or its claim.
    held = find_held_run(folder, plan, {})
    problems = [problem for problem in (made_up_hosts(plan), held) if problem]
    if problems:
        raise StrategyError(locate_problems(problems, plan.strategy))
    with supervision(folder), _metrics(folder, loaded.operate.metrics_port):
        journal = Journal(folder, _Teller(loaded.operate.hook))
        supervisor = Supervisor(plan.strategy, journal, stdout=2 if output.is_json else None)
        with stop_requests(supervisor):
            code = supervisor.run()
    if output.is_json:
        return output.print_json(code, {"folder": str(folder), "code": int(code)})
    return code


class _Teller:
    """Tells each entry of the journal on the terminal, and to the program that the user named."""

    def __init__(self, hook: tuple[str, ...] | None) -> None:
        self._hook = hook

    def __call__(self, entry: "Entry") -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
        print(f"supervisor {clock}: {entry.text}", file=sys.stderr, flush=True)
        if self._hook is None:
            return
        try:
            subprocess.run(
                [*self._hook, entry.event, entry.text],
                input=json.dumps(asdict(entry)),
                text=True,
                stdout=subprocess.DEVNULL,
                timeout=HOOK_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"warning: SW455 operate.hook failed: {error}", file=sys.stderr, flush=True)


@contextmanager
def _metrics(folder: Path, port: int | None) -> Iterator[None]:
    """Serves operate.metrics_port beside the supervisor."""
    if port is None:
        yield
        return
    from launch.monitor.openmetrics import metrics_server

    with metrics_server(folder, port) as address:
        print(f"serving {address}", file=sys.stderr, flush=True)
        yield


def _set_aside(folder: str) -> ExitCode:
    """Prints where the old run is now, on stderr."""
    command = [sys.executable, "-m", "runtime.attempts", "set-aside", folder]
    ended = subprocess.run(command, cwd=PROJECT, stdout=sys.stderr, check=False)
    return ExitCode(ended.returncode)
