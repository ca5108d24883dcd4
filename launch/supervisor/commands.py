"""Commands that the supervisor runs: on this machine, and on hosts over ssh."""

import os
import shlex
import subprocess
from collections.abc import Sequence

from launch.scripts.template import LaunchPaths
from launch.ssh.options import ssh_arguments

LOCAL = "localhost"


def on_host(paths: LaunchPaths, host: str, words: Sequence[str]) -> list[str]:
    """The command that runs these words on a host, in the project folder; "localhost" is this machine."""
    words = ["env", "-C", str(paths.project), *words]
    return list(words) if host == LOCAL else over_ssh(paths, host, shlex.join(words))


def over_ssh(paths: LaunchPaths, host: str, command: str) -> list[str]:
    """The command that runs a line of shell on another host."""
    return ["ssh", "-T", *ssh_arguments(paths.ssh_config, os.environ), "--", host, command]


def run_quietly(command: Sequence[str], timeout_s: float) -> int | None:
    """The exit code of a command without input and output; None if it took too long or is not there."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.returncode
