"""Processes of a drill's run on one host: `python -m launch.drill.processes list|kill RUN_FOLDER`."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from planner.exit_codes import ExitCode

MODULE = "launch.drill.processes"
_KILL_WAIT_S = 5.0


def processes_of(run_folder: Path) -> list[psutil.Process]:
    """All that has the folder in a word of its command, but for what looks for them or ends them."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:  # it has ended
            continue
        is_named = any(str(run_folder) in word for word in words)
        if is_named and not any(MODULE in word for word in words):
            found.append(process)
    return found


def main(arguments: Sequence[str]) -> int:
    """0 if there is none, 1 if there are some: their process ids are printed."""
    if len(arguments) != 2 or arguments[0] not in ("list", "kill"):
        print(f"usage: python -m {MODULE} list|kill RUN_FOLDER", file=sys.stderr)
        return ExitCode.WRONG_INPUT
    folder = Path(arguments[1])
    left = processes_of(folder)
    if arguments[0] == "kill":
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_KILL_WAIT_S)
        left = processes_of(folder)
    print(" ".join(str(process.pid) for process in left))
    return ExitCode.NEGATIVE if left else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
