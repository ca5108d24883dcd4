"""Launcher of this process: its parent, or, where a warm parent has forked it, that of whom it stands for."""

import os
from pathlib import Path

_PROCESSES = Path("/proc")
# Of this process alone, as os.getppid() is: set once, right after the fork.
_stands_for: int | None = None


def stand_for(process: int) -> None:
    """This process does the work of another one, which the launcher has started (handover.py)."""
    global _stands_for
    _stands_for = process


def is_forked() -> bool:
    """Whether a warm parent has forked this process."""
    return _stands_for is not None


def launcher_id() -> int:
    """Its process id; another one, or 0, once the launcher has ended."""
    if _stands_for is None:
        return os.getppid()
    return parent_of(_stands_for) or 0


def parent_of(process: int) -> int | None:
    """None for a process that has ended, also one that its parent has not waited for yet."""
    try:
        state, parent = (_PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)
