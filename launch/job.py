"""One attempt among the processes of a host: the name it has there, asking its ranks to stop, ending it.

DeepSpeed 0.19.8 ends a job's processes on a host by the path of its interpreter
(launcher/multinode_runner.py:128), which all jobs share. So each attempt runs through a link of its own to
the interpreter, and whatever runs through that link belongs to it.

`python -m launch.job make|ask|end|remove PATH`, which launch.sh calls on every host.
"""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

# Longer than the 20 s in which a rank that was asked to stop gives up waiting for the end of a step.
GRACE_S = 30.0
KILL_WAIT_S = 5.0
# The file beside the link that says so to ranks that start later (process/launcher_watch.py looks for it).
ASKED = "asked-to-stop"
# What runs through the link and is no rank: DeepSpeed's own programs.
_LAUNCHERS = ("deepspeed.launcher.runner", "deepspeed.launcher.launch")


def make_link(link: Path) -> None:
    """Makes FOLDER/bin/NAME, a link to this interpreter; packages are found through it too.

    The interpreter of a virtual environment finds its packages beside the path by which it was called, so
    FOLDER, which is the attempt's own, gets what is looked for there.

    Raises:
        OSError: if it cannot be made.
    """
    folder, prefix = link.parents[1], Path(sys.prefix)
    folder.mkdir(parents=True)  # where it exists, it is somebody else's
    try:
        link.parent.mkdir()
        link.symlink_to(sys.executable)
        if sys.prefix != sys.base_prefix:
            shutil.copyfile(prefix / "pyvenv.cfg", folder / "pyvenv.cfg")
            for name in ("lib", "lib64"):
                if (prefix / name).is_dir():
                    (folder / name).symlink_to((prefix / name).resolve())
    except OSError:
        remove(link)
        raise


def remove(link: Path) -> None:
    """Takes away what `make_link` made; what runs through it runs on."""
    shutil.rmtree(link.parents[1], ignore_errors=True)


def processes(link: Path) -> list[psutil.Process]:
    """What runs through the link on this host; processes that have ended and wait for their parent do not."""
    return [process for process, arguments in _all_arguments() if arguments[:1] == [str(link)]]


def ranks(link: Path) -> list[psutil.Process]:
    """The processes of the attempt that are ranks."""
    return [
        process
        for process, arguments in _all_arguments()
        if arguments[:1] == [str(link)] and not set(arguments[1:5]) & set(_LAUNCHERS)
    ]


def ask(link: Path) -> None:
    """Asks every rank of this host, once, to save and end; one that starts later finds that it was asked."""
    _tell_later_ranks(link)
    for rank in ranks(link):
        _send(rank, signal.SIGTERM)


def end(link: Path, grace_s: float = GRACE_S) -> list[psutil.Process]:
    """Ends all that runs through the link on this host, by force after `grace_s`; returns what is left."""
    _tell_later_ranks(link)
    asked: set[int] = set()

    def ask_new() -> None:
        for process in processes(link):  # a launcher may start ranks while it is being asked
            if process.pid not in asked:
                asked.add(process.pid)
                _send(process, signal.SIGTERM)

    def kill() -> None:
        for process in processes(link):
            _send(process, signal.SIGKILL)

    return _until_none(link, ask_new, grace_s) and _until_none(link, kill, KILL_WAIT_S)


def _tell_later_ranks(link: Path) -> None:
    try:
        link.with_name(ASKED).touch()
    except OSError as error:
        print(f"{error}", file=sys.stderr)


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
            continue  # it has ended, or is not ours to look at
    return found


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error as error:
        if process.is_running():
            print(f"{error}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """0; 1 if processes of the attempt could not be ended, which are named; 2 for a wrong call."""
    if len(arguments) != 2 or arguments[0] not in ("make", "ask", "end", "remove"):
        print("usage: python -m launch.job make LINK | ask LINK | end LINK | remove LINK", file=sys.stderr)
        return 2
    command, path = arguments[0], Path(arguments[1])
    if path.parent.name != "bin" or not path.parents[1].name.startswith("job-"):
        print(f"{path} is no link of an attempt: those are RUN/logs/job-NAME/bin/NAME", file=sys.stderr)
        return 2
    if command == "make":
        try:
            make_link(path)
        except OSError as error:
            print(f"{path}: {error.strerror or error}", file=sys.stderr)
            return 1
    elif command == "ask":
        ask(path)
    elif command == "remove":
        remove(path)
    elif left := end(path):
        print(f"not ended: {', '.join(map(str, left))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
