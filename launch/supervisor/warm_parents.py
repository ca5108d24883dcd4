"""Warm parents of the next attempt: on each host one process that has imported what its ranks import."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.scripts.template import LaunchPaths
from launch.supervisor.attempt import fence
from launch.supervisor.commands import on_host
from launch.supervisor.job_link import remove_link

MODULE = "runtime.warm_parent"
# A parent that was asked to end does so within its poll of a second.
END_WAIT_S = 5.0


class WarmParents:
    """Started by its constructor; they end when this program does.

    Args:
        link: of the next attempt, through which they run.
        hosts: of the next attempt, as far as it is known: those in use, and the spares.
    """

    def __init__(self, paths: LaunchPaths, link: Path, hosts: Sequence[str]) -> None:
        self.link, self.hosts = link, tuple(hosts)
        self._paths = paths
        self._processes = {host: self._start(host) for host in hosts}

    def _start(self, host: str) -> subprocess.Popen[bytes]:
        log = self.link.parents[2] / f"{self.link.name.removeprefix('python-')}_warm-{host}.log"
        words = [str(self.link), "-m", MODULE, str(self._paths.run / "env"), str(log)]
        return subprocess.Popen(
            on_host(self._paths, host, words),
            stdin=subprocess.PIPE,  # it ends with this program, which closes it
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_own_environment(),
            start_new_session=True,
        )

    def missing(self) -> dict[str, int]:
        """Hosts whose parent has failed, with its exit code: ranks start there by themselves."""
        codes = {host: process.poll() for host, process in self._processes.items()}
        return {host: code for host, code in codes.items() if code}

    def kill(self) -> None:
        """Ends them, where no attempt follows."""
        fence(self._paths, self.hosts, self.link)
        self.close()
        remove_link(self._paths, self.link)

    def close(self) -> None:
        """Waits for their end, once their attempt has ended."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(END_WAIT_S)
            except subprocess.TimeoutExpired:  # ssh to a host that does not answer
                process.kill()
                process.wait()


def _own_environment() -> dict[str, str]:
    """As launch.sh hands it to local ranks: what DeepSpeed would read as a list of slots is left out."""
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
