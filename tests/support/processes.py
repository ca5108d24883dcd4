"""Processes of this machine, by what their commands name."""

from pathlib import Path

import psutil


def processes_that_name(path: Path) -> list[psutil.Process]:
    """Those with the path in a word of their command; not those that have ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(path) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found
