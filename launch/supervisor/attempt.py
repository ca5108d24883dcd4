"""One attempt of a supervised run: launch.sh as a process, and the end of everything that it started."""

import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from launch.scripts.template import LaunchPaths
from launch.supervisor.commands import LOCAL, on_host, over_ssh, run_quietly

# For ssh to one host, its login shell and a Python that kills processes; keep-alives end it at 30 s.
FENCE_TIMEOUT_S = 40.0
END_WAIT_S = 10.0


class Attempt:
    """Started by its constructor.

    Args:
        link: the attempt's own link to the interpreter.
        hosts: on which it has processes; ("localhost",) is this machine.
        stdout: a file descriptor for what ranks and launcher print; None: this program's.
    """

    def __init__(
        self,
        paths: LaunchPaths,
        link: Path,
        hosts: Sequence[str],
        *,
        takes_over: bool,
        stdout: int | None = None,
    ) -> None:
        self._paths, self._link, self._hosts = paths, link, tuple(hosts)
        arguments = [str(paths.run / "launch.sh"), *(["--take-over"] if takes_over else [])]
        arguments += ["--job", link.name.removeprefix("python-")]
        # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which asks the ranks once.
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stdout, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code of launch.sh; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Waits for launch.sh to end by itself."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def ask(self) -> None:
        """Asks the ranks to save and to end; launch.sh passes it on."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> tuple[str, ...]:
        """Ends every process of the attempt by force; returns the hosts that did not confirm it."""
        left = fence(self._paths, self._hosts, self._link)
        if self.wait(END_WAIT_S) is None:  # it waits for a host that does not answer
            _kill_tree(self.pid)
            self._process.wait()
        return left


def fence(paths: LaunchPaths, hosts: Sequence[str], link: Path) -> tuple[str, ...]:
    """Kills the processes of an attempt on these hosts at once; returns the hosts that did not confirm it."""
    words = [paths.python, "-m", "launch.job", "kill", str(link)]

    def end(host: str) -> bool:
        return run_quietly(on_host(paths, host, words), FENCE_TIMEOUT_S) == 0

    with ThreadPoolExecutor(max_workers=64) as pool:
        confirmed = list(pool.map(end, hosts))
    return tuple(host for host, is_ended in zip(hosts, confirmed, strict=True) if not is_ended)


def unreachable(paths: LaunchPaths, hosts: Sequence[str], timeout_s: float) -> tuple[str, ...]:
    """Those of these hosts on which no command runs within the time."""

    def answers(host: str) -> bool:
        return host == LOCAL or run_quietly(over_ssh(paths, host, "true"), timeout_s) == 0

    with ThreadPoolExecutor(max_workers=64) as pool:
        answered = list(pool.map(answers, hosts))
    return tuple(host for host, is_there in zip(hosts, answered, strict=True) if not is_there)


def _kill_tree(pid: int) -> None:
    try:
        top = psutil.Process(pid)
        processes = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
