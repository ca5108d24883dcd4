"""Which words behind a command's strategy name another strategy, and which change keys."""

from collections.abc import Sequence
from pathlib import Path

from planner import Problem, StrategyError


def strategies_among(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that name a second strategy (or a third), and those that are left."""
    files = [text for text in overrides if _is_file(text)]
    return files, [text for text in overrides if text not in files]


def _is_file(text: str) -> bool:
    return "=" not in text and (text.endswith((".yaml", ".yml")) or Path(text).is_file())


def refuse_second(overrides: Sequence[str]) -> None:
    """For commands that take one strategy.

    Raises:
        StrategyError: if a word names a second one.
    """
    others, _ = strategies_among(overrides)
    if others:
        problem = Problem(
            path=None,
            line=None,
            found=f"{others[0]} would be a second strategy; only plan takes two",
            expected="one strategy, then key=value",
            fix="run the command for each",
        )
        raise StrategyError([problem])
