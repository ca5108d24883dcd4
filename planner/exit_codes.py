"""Exit codes of `python -m launch …`, of one train.py process, and of the programs in runtime/."""

from enum import IntEnum


class ExitCode(IntEnum):
    """OK: done, the answer is yes. NEGATIVE: done, the answer is no. STOPPED: asked to (INT, TERM, USR1)."""

    OK = 0
    NEGATIVE = 1
    WRONG_INPUT = 2
    INTERNAL_ERROR = 3
    STOPPED = 130
