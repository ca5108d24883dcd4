"""Processes of one launch attempt on a host, found by the attempt's own link to the interpreter.

DeepSpeed 0.19.8 kills a job's processes on a host by the path of its interpreter
(launcher/multinode_runner.py:128), which all jobs share. So each attempt runs through its own link to the
interpreter, and every process that runs through that link belongs to it.

`python -m launch.job make|ask|end|kill|remove PATH`, which launch.sh and the supervisor call on every host.
"""

import contextlib
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

# Longer than the 20 s after which a signalled rank stops waiting for the end of its step.
GRACE_S = 30.0
KILL_WAIT_S = 5.0
# File beside the link that tells ranks that start later to stop (runtime/process/launcher_watch.py reads it).
ASKED = "asked-to-stop"
# File beside the link with the secret of the attempt, for its ranks (runtime/process/attempt_secret.py).
SECRET = "secret"
# Files beside the link that launch.sh and launch/launcher_output.py write.
_OF_LAUNCH_SH = ("host-ended", "guarded", "reason")
# File in the attempt's folder by which `remove` knows that `make` made it.
_MADE = "made-by-launch-job"
# Programs of DeepSpeed that run through the link and are not ranks.
_LAUNCHERS = ("deepspeed.launcher.runner", "deepspeed.launcher.launch")
# Program of warm parents, and of the ranks that they have forked (runtime/process/fork_server.py).
_WARM_PARENT = "runtime.warm_parent"


def make_link(link: Path) -> None:
    """Creates FOLDER/bin/NAME, a link to this interpreter that finds the same packages.

    The interpreter of a virtual environment looks for its packages beside the path by which it was called, so
    FOLDER, which belongs to the attempt, gets links to them.

    Raises:
        OSError: if it cannot be created.
    """
    folder, prefix = link.parents[1], Path(sys.prefix)
    folder.mkdir(parents=True)  # if it exists, it belongs to another attempt
    try:
        (folder / _MADE).touch()
        link.parent.mkdir()
        link.symlink_to(sys.executable)
        secret = link.with_name(SECRET)
        secret.touch(mode=0o600, exist_ok=False)
        secret.write_text(secrets.token_hex(32), encoding="ascii")
        if sys.prefix != sys.base_prefix:
            shutil.copyfile(prefix / "pyvenv.cfg", folder / "pyvenv.cfg")
            for name in ("lib", "lib64"):
                if (prefix / name).is_dir():
                    (folder / name).symlink_to((prefix / name).resolve())
    except OSError:
        remove(link)
        raise


def remove(link: Path) -> None:
    """Removes what `make_link` created; processes that run through it continue.

    Nothing else: a folder that `make_link` did not create is left alone (a virtual environment of this name
    looks the same), and what others put into one that it did stays there.
    """
    folder = link.parents[1]
    if not (folder / _MADE).is_file():
        return
    links = (link, folder / "lib", folder / "lib64")
    files = (folder / "pyvenv.cfg", *(link.with_name(name) for name in (ASKED, SECRET, *_OF_LAUNCH_SH)))
    for path in (*filter(Path.is_symlink, links), *files, folder / _MADE):
        with contextlib.suppress(OSError):
            path.unlink()
    for made in (link.parent, folder):
        with contextlib.suppress(OSError):
            made.rmdir()


def processes(link: Path) -> list[psutil.Process]:
    """Processes that run through the link on this host, without zombies."""
    return [process for process, arguments in _all_arguments() if arguments[:1] == [str(link)]]


def ranks(link: Path) -> list[psutil.Process]:
    """Processes of the attempt that the launcher has started as ranks.

    Not those that a warm parent has forked for them: they would get each signal twice, as it is passed on.
    """
    others = {*_LAUNCHERS, _WARM_PARENT}
    return [
        process
        for process, arguments in _all_arguments()
        if arguments[:1] == [str(link)] and not set(arguments[1:5]) & others
    ]


def _warm(link: Path) -> list[psutil.Process]:
    return [
        process
        for process, arguments in _all_arguments()
        if arguments[:1] == [str(link)] and _WARM_PARENT in arguments[1:5]
    ]


def ask(link: Path) -> None:
    """Sends TERM to every rank of this host, once, so that it saves and ends; tells later ranks."""
    _tell_later_ranks(link)
    for rank in ranks(link):
        _send(rank, signal.SIGTERM)


def end(link: Path, grace_s: float = GRACE_S) -> list[psutil.Process]:
    """Ends the attempt's processes on this host, by force after `grace_s`; returns those that are left."""
    _tell_later_ranks(link)
    asked: set[int] = set()

    def ask_new() -> None:
        warm = {process.pid for process in _warm(link)}  # they end with their ranks, which are told
        for process in processes(link):  # a launcher may start ranks meanwhile
            if process.pid not in asked | warm:
                asked.add(process.pid)
                _send(process, signal.SIGTERM)

    return _until_none(link, ask_new, grace_s) and kill(link)


def kill(link: Path) -> list[psutil.Process]:
    """Ends the attempt's processes on this host by force; returns those that are left."""

    def kill_all() -> None:
        for process in processes(link):
            _send(process, signal.SIGKILL)

    _tell_later_ranks(link)
    return _until_none(link, kill_all, KILL_WAIT_S)


def _tell_later_ranks(link: Path) -> None:
    try:
        link.with_name(ASKED).touch()
    except OSError as error:
        _say(f"{error}")


def _until_none(link: Path, act: Callable[[], None], timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    act()
    while (left := processes(link)) and time.monotonic() < deadline:
        time.sleep(0.2)
        act()
    return left


def _all_arguments() -> list[tuple[psutil.Process, list[str]]]:
    found = []
    for process in psutil.process_iter():
        try:
            found.append((process, process.cmdline()))
        except psutil.Error:
            continue  # it has ended, or is not readable for us
    return found


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error as error:
        if process.is_running():
            _say(f"{error}")


def _say(text: str) -> None:
    """On stderr. What this imports takes a moment, so not before there is something to say."""
    from planner.terminal_text import escape_controls

    print(escape_controls(text), file=sys.stderr)


_USAGE = "usage: python -m launch.job make LINK | ask LINK | end LINK | kill LINK | remove LINK"


def main(arguments: Sequence[str]) -> int:
    """0; 1 if processes of the attempt could not be ended (printed); 2 for wrong arguments.

    The numbers are those of planner.exit_codes, whose package takes too long to import for a program that is
    started on every host to stop ranks.
    """
    if {"-h", "--help"} & set(arguments) or list(arguments) == ["--version"]:
        from planner.standard_streams import run_program

        run_program(lambda: print(_USAGE))  # or the version
    if len(arguments) != 2 or arguments[0] not in ("make", "ask", "end", "kill", "remove"):
        print(_USAGE, file=sys.stderr)
        return 2
    command, path = arguments[0], Path(arguments[1])
    if path.parent.name != "bin" or not path.parents[1].name.startswith("job-"):
        _say(f"{path}: not the link of an attempt (RUN/logs/job-NAME/bin/NAME)")
        return 2
    if command == "make":
        try:
            make_link(path)
        except OSError as error:
            _say(f"{path}: {error.strerror or error}")
            return 1
    elif command == "ask":
        ask(path)
    elif command == "remove":
        remove(path)
    elif left := end(path) if command == "end" else kill(path):
        _say(f"could not end: {', '.join(map(str, left))}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
