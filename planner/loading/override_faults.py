"""Attribution of a broken rule to the overrides that broke it: the file's own line is not at fault then."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from planner.loading.joint_fixes import set_keys, with_fixes
from planner.problems import Problem
from planner.rules.partial import DERIVED, PartialStrategy
from planner.rules.registry import RULES, Rule, find_broken_rule
from planner.strategy.schema import Strategy
from planner.strategy.sources import Sources
from planner.units import shorten

Key = tuple[str, ...]


def name_overrides(
    problems: Iterable[Problem], overrides: Sequence[str], in_file: Collection[Problem], file: str | None
) -> Iterator[Problem]:
    """Problems of a section that the file alone has right, each with the overrides of its keys.

    A line of another file than the strategy's, a hostfile's, stays the place of its Problem.
    """
    known = {(problem.code, problem.path) for problem in in_file}
    for problem in problems:
        section = f"{problem.path}."
        culprits = [text for text in overrides if text.lstrip().startswith(section)]
        is_of_strategy = problem.override is None and problem.file == file
        if is_of_strategy and culprits and (problem.code, problem.path) not in known:
            yield _blame(problem, culprits)
        else:
            yield problem


def find_broken_rules_of(
    strategy: PartialStrategy, sources: Sources, overrides: Sequence[str], in_file: Collection[Problem]
) -> Iterator[Problem]:
    """The Problems of every broken rule, each at its key's line, or at its override.

    A rule relates several keys, and its Problem names one of them. Where that key is as in the file, the file
    alone keeps the rule and an override changed another of its keys, the override is named.

    Args:
        in_file: the broken rules of the file without its overrides.
    """
    known = {(problem.code, problem.path) for problem in in_file}
    earlier: list[Problem] = []
    for rule in RULES:
        strategy.reads.clear()
        problems = list(find_broken_rule(rule, strategy.as_strategy()))
        reads = frozenset(strategy.reads)
        for problem in _with_earlier_fixes(problems, rule, strategy, reads, earlier):
            placed = sources.locate(problem)
            if placed.override is None and (problem.code, placed.path) not in known:
                culprits = [text for text in overrides if _touches(_key(text), reads)]
                if culprits:
                    placed = _blame(placed, culprits)
            yield placed
        earlier += problems


def _with_earlier_fixes(
    problems: Sequence[Problem],
    rule: Rule,
    strategy: PartialStrategy,
    reads: Collection[Key],
    earlier: Sequence[Problem],
) -> Sequence[Problem]:
    """A rule's problems with the fixes that hold once those of earlier rules are followed.

    A rule that is kept then has no problem: its numbers are those of the other mistake.
    """
    related = [problem for problem in earlier if _sets_any(problem, reads)]
    mended = with_fixes(cast(Strategy, strategy.section), related) if problems and related else None
    if mended is None:
        return problems
    again = {
        (problem.code, problem.path): problem
        for problem in find_broken_rule(rule, strategy.of(mended).as_strategy())
    }
    kept = (problem for problem in problems if (problem.code, problem.path) in again)
    return [replace(problem, fix=again[problem.code, problem.path].fix) for problem in kept]


def _sets_any(problem: Problem, reads: Collection[Key]) -> bool:
    keys = set_keys(problem)
    return keys is not None and _touches(keys, reads)


def _blame(problem: Problem, overrides: Sequence[str]) -> Problem:
    return replace(problem, file=None, line=None, override=shorten(" ".join(overrides), 200))


def _key(override: str) -> Key:
    return tuple(override.partition("=")[0].strip().split("."))


def _touches(key: Key, reads: Collection[Key]) -> bool:
    """Whether a key, one below it, a section above it or one that follows from it was read."""
    followed = (origins for derived, origins in DERIVED.items() if derived in reads)
    read: set[Key] = set(reads).union(*followed)
    return any(path[: len(key)] == key or key[: len(path)] == path for path in read)
