"""Launcher of a rank: whether it and whatever started it are still alive, and the hosts it was given."""

import base64
import json
import os
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from planner.problems import Problem
from runtime.process.started_by import launcher_id

_STDIN = 0
# Files beside the attempt's link to the interpreter. launch/job.py writes the first; launch.sh the others:
# the Problem of a host whose launcher has ended, and that it ends the ranks of the other hosts for that.
_ASKED, _HOST_ENDED, _GUARDED = "asked-to-stop", "host-ended", "guarded"
_SCRIPTS = ("launch.torchrun.sh", "launch.mpirun.sh")  # launch.sh has a guard of its own


class LauncherWatch:
    """The processes above a rank on this host, up to the command or connection that started it."""

    def __init__(self, launcher: int | None = None) -> None:
        """
        Args:
            launcher: the launcher's process id; None takes that of this process.
        """
        self._launcher = launcher_id() if launcher is None else launcher
        self._runner = runner_above(self._launcher)
        self._connection = connection_above(self._launcher)
        self._has_stdin_ended = None if self._connection is None else _end_of_stdin()

    def is_gone(self) -> bool:
        """Whether the launcher has ended."""
        return launcher_id() != self._launcher

    def is_abandoned(self) -> bool:
        """Whether whatever started the launcher has ended: a command on this host, or a connection to it."""
        if self._runner is not None and _parent_of(self._launcher) != self._runner:
            return True
        if self._connection is not None and not _is_alive(self._connection):
            return True
        return self._has_stdin_ended is not None and self._has_stdin_ended()


def was_asked_to_stop() -> bool:
    """Whether this rank's attempt was asked to stop before there was a rank to signal."""
    return Path(sys.executable).with_name(_ASKED).exists()


def why_launch_ends_ranks(bin_folder: Path | None = None) -> Problem | None:
    """Why launch.sh ends this attempt's ranks unasked: a host was lost or could not start. None: it does not.

    Args:
        bin_folder: of the attempt's link; None takes that of this interpreter.
    """
    folder = Path(sys.executable).parent if bin_folder is None else bin_folder
    try:
        names = [path.name for path in folder.iterdir()]  # also makes a network file system refresh its cache
        if _GUARDED not in names or _HOST_ENDED not in names:
            return None
        return Problem(**json.loads((folder / _HOST_ENDED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def runner_above(launcher: int) -> int | None:
    """The process id of what started the launcher on this host, if the ranks end with it; else None.

    DeepSpeed 0.19.8 handles no signal there on a single node (runner.py:632): TERM or KILL ends the command
    that was typed and leaves launch.py and the ranks running. The ranks treat its end as a TERM. A generated
    script that is killed leaves torchrun or mpirun running, and nobody would pass a signal on to the ranks.
    """
    runner = _parent_of(launcher)
    words = _command_of(runner)[:4] if runner is not None else []
    if any(Path(word).name in _SCRIPTS for word in words):
        return runner
    if not _is_deepspeeds(launcher):
        return None
    is_runner = any(Path(word).name == "deepspeed" or word == "deepspeed.launcher.runner" for word in words)
    return runner if is_runner else None


def connection_above(launcher: int) -> psutil.Process | None:
    """The sshd that serves the connection over which DeepSpeed started its launcher; None elsewhere.

    sshd ends it with the connection, and leaves the processes started over it running.
    """
    if not _is_deepspeeds(launcher):
        return None
    try:
        above = psutil.Process(launcher).parents()
        return next((process for process in above if process.name() in ("sshd", "sshd-session")), None)
    except psutil.Error:
        return None


def hosts_given(launcher: int | None = None) -> dict[str, int] | None:
    """The hosts and their numbers of ranks, in order, with which DeepSpeed started this rank's launcher.

    None under another launcher, or where its command cannot be read.
    """
    prefix = "--world_info="
    for word in _command_of(launcher_id() if launcher is None else launcher):
        if word.startswith(prefix):
            try:
                hosts: dict[str, list[Any]] = json.loads(base64.urlsafe_b64decode(word[len(prefix) :]))
                return {name: len(slots) for name, slots in hosts.items()}
            except (ValueError, AttributeError, TypeError):
                return None
    return None


def _end_of_stdin() -> Callable[[], bool] | None:
    """A check whether standard input has ended; None unless it is an open pipe or socket.

    pdsh and ssh forward nothing, but they hold it open: when pdsh is killed, ssh keeps running and closes it.
    """
    try:
        mode = os.fstat(_STDIN).st_mode
    except OSError:
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return None
    watch = select.poll()
    watch.register(_STDIN, getattr(select, "POLLRDHUP", 0))  # a hang-up is reported unasked

    def has_ended() -> bool:
        return bool(watch.poll(0))

    return None if has_ended() else has_ended


def _is_deepspeeds(launcher: int) -> bool:
    return "deepspeed.launcher.launch" in _command_of(launcher)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _command_of(process: int) -> list[str]:
    try:
        return psutil.Process(process).cmdline()
    except psutil.Error:
        return []


def _parent_of(process: int) -> int | None:
    try:
        return psutil.Process(process).ppid()
    except psutil.Error:
        return None
