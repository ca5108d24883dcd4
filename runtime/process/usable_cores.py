"""Cores that a process may use."""

import os


def num_usable_cores() -> int:
    """Those of this process's affinity; of the machine, where there is no such thing."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
