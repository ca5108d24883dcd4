"""Text of a strategy's file, or the one Problem that keeps it from being read."""

from pathlib import Path

from planner.files import read_limited
from planner.problems import Problem, StrategyError
from planner.yaml12 import MAX_BYTES


def read_text(file: str) -> str:
    """The text of a file.

    Raises:
        StrategyError: if there is none, or it is something else than text in UTF-8.
    """
    try:
        return read_limited(file, MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        found, fix = "no such file", f"correct the path (relative paths start at {Path.cwd()})"
    except IsADirectoryError:
        found, fix = "this is a directory", "give a file in it"
    except UnicodeDecodeError as error:
        found, fix = f"byte {error.start} is not UTF-8 text", "give a text file in UTF-8"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        found, fix = f"the file cannot be read: {reason.lower()}", "give the file of a strategy"
        if isinstance(error, PermissionError):
            fix = "correct its permissions"
    expected = "a strategy in YAML, for example ds_configs/tiny_cpu.yaml"
    raise StrategyError([Problem(code="SW101", found=found, expected=expected, fix=fix, file=file)])
