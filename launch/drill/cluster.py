"""Hosts of a drill on a cluster: the strategy's own. Nothing is done to them but to the drill's ranks."""

from collections.abc import Iterator
from pathlib import Path

from launch.drill.hosts import Hosts
from launch.drill.processes import MODULE
from launch.scripts.launch_files import build_launch_plan, launch_paths
from launch.supervisor.commands import on_host, run_quietly
from planner.exit_codes import ExitCode
from planner.strategy.schema import Strategy

ASK_TIMEOUT_S = 40.0


class ClusterHosts(Hosts):
    """
    Args:
        strategy: whose hosts they are.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._paths = launch_paths(build_launch_plan(strategy))
        self.names = strategy.cluster.hosts.names

    def start(self) -> None:
        """They are there."""

    def close(self) -> None:
        """They stay."""

    def power_off(self, name: str, processes: tuple[int, ...]) -> None:
        raise AssertionError("a host of a cluster is left alone")

    def leftovers(self, run_folder: Path) -> Iterator[str]:
        for name in self.names:
            code = self._ask(name, "list", run_folder)
            if code == ExitCode.NEGATIVE:
                yield f"still running on {name}"
            elif code != ExitCode.OK:
                yield f"what still runs on {name} could not be asked"

    def end_all(self, run_folder: Path) -> None:
        for name in self.names:
            self._ask(name, "kill", run_folder)

    def _ask(self, name: str, what: str, run_folder: Path) -> int | None:
        words = [self._paths.python, "-m", MODULE, what, str(run_folder)]
        return run_quietly(on_host(self._paths, name, words), ASK_TIMEOUT_S)
