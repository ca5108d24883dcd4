"""Supervised run of a drill, in a process of its own: `python -m launch.drill.supervised STRATEGY`.

As `python -m launch run`, with another program for the ranks.
"""

import sys

from launch.scripts.launch_files import build_launch_plan, launch_paths
from launch.supervisor.journal import Entry, Journal
from launch.supervisor.run_lock import supervision
from launch.supervisor.stop_requests import stop_requests
from launch.supervisor.supervise import Supervisor
from planner import StrategyError, load
from planner.exit_codes import ExitCode

PROGRAM = ("--module", "runtime.drill")


def main(path: str) -> int:
    """The exit code of the run."""
    strategy = load(path)
    folder = launch_paths(build_launch_plan(strategy)).run
    try:
        with supervision(folder):
            supervisor = Supervisor(strategy, Journal(folder, _tell), program=PROGRAM)
            with stop_requests(supervisor):
                return supervisor.run()
    except StrategyError as error:
        print(error, file=sys.stderr)
        return ExitCode.WRONG_INPUT


def _tell(entry: Entry) -> None:
    print(f"supervisor: {entry.text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m launch.drill.supervised STRATEGY", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
