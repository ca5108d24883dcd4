"""Problems: mistakes a user can correct, with place, code, what was found, what is expected, and a fix."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake a user can correct.

    `code` (`SW201`) is stable: `python -m launch explain SW201` prints its cause, an example and the fix.
    `path` is the dotted key (`parallel.ep`), or None when the whole input is meant. `file` and `line` say
    where it was written, `override` is the `key=value` text when it came from the command line instead.
    """

    code: str
    path: str | None = None
    line: int | None = None
    found: str
    expected: str
    fix: str
    file: str | None = None
    override: str | None = None

    def __str__(self) -> str:
        if self.override is not None:
            where = f"command line: {self.override}: "
        elif self.file is not None:
            where = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: "
        else:
            where = ""
        where += f"{self.code} "
        if self.path is not None and self.override is not None and self.override.startswith(f"{self.path}="):
            key = ""  # the override's text names the key already
        else:
            key = f"{self.path}: " if self.path is not None else ""
        return f"{where}{key}{self.found}\n  expected: {self.expected}\n  fix:      {self.fix}"

    def as_json(self) -> dict[str, object]:
        """The same as plain data, for --json and failed.json."""
        return asdict(self)


class StrategyError(Exception):
    """Wrong input; carries every Problem that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "a StrategyError without a Problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["StrategyError"], tuple[tuple[Problem, ...]]]:
        return StrategyError, (self.problems,)  # survives a process pool: args alone would be the text
