"""Positional arguments after a command's strategy: further strategies, or key=value overrides."""

from collections.abc import Sequence
from pathlib import Path

from planner import Problem, StrategyError


def split_strategies(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that name a strategy file, and the others."""
    files = [text for text in arguments if _is_file(text)]
    return files, [text for text in arguments if text not in files]


def _is_file(text: str) -> bool:
    return "=" not in text and (text.endswith((".yaml", ".yml")) or Path(text).is_file())


def only_overrides(arguments: Sequence[str] | None) -> Sequence[str]:
    """The overrides of a command that takes one strategy.

    Raises:
        StrategyError: if an argument names a second strategy.
    """
    others, _ = split_strategies(arguments or ())
    if others:
        problem = Problem(
            code="SW483",
            found=f"second strategy {others[0]}; only plan takes two",
            expected="one strategy, then key=value",
            fix="run the command for each strategy",
        )
        raise StrategyError([problem])
    return arguments or ()
