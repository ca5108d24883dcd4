"""Strategy with some overrides, given as plain values by dotted key; and the `with` of claims, checked."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from planner.loading.validation_messages import find_faults
from planner.problems import Problem, StrategyError
from planner.strategy.field_types import AS_TEXT, show
from planner.strategy.parallel import parse_short_name
from planner.strategy.schema import Strategy


def changed_strategy(
    strategy: Strategy, changes: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> Strategy:
    """The strategy as `key=value` overrides would change it, without claims; rules are left to build_plan.

    Args:
        changes: values as a file writes them, by dotted key: {"parallel.tp": 2, "cluster.gpu": "H100"}.
        known: devices and links that may be named; None: those that are shipped or the user's.

    Raises:
        StrategyError: with every key or value of `changes` that is not legal.
    """
    data = strategy.model_dump(context=AS_TEXT, exclude_unset=True)
    data.pop("claims", None)
    problems = [problem for key, value in changes.items() for problem in _put(data, key, value)]
    try:
        changed = Strategy.model_validate(data, context={**AS_TEXT, **(known or {})})
    except ValidationError as error:
        for fault in find_faults(error, data):
            problems += fault.problems
            if fault.found is not None and not fault.problems:
                path = ".".join(str(key) for key in fault.path)
                fix = fault.fix_in_file(is_dotted=True)
                problems.append(
                    Problem(code=fault.code, path=path, found=fault.found, expected=fault.expected, fix=fix)
                )
        raise StrategyError(problems) from None
    if problems:
        raise StrategyError(problems)
    return changed


def _put(data: dict[str, Any], key: str, value: Any) -> Iterator[Problem]:
    """Puts a value under a dotted key; a short name on the way becomes the degrees that it has."""
    *sections, last = key.split(".")
    if not all((*sections, last)) or sections[:1] == ["claims"] or key == "claims":
        yield Problem(
            code="SW125",
            path=key,
            found=f"{key!r} is not a key that a claim may change",
            expected="a dotted key of the strategy outside of claims, for example training.global_batch",
            fix="write such a key, or remove this one",
        )
        return
    place = data
    for name in sections:
        inside = place.get(name)
        if isinstance(inside, str) and name == "parallel":
            try:
                inside = parse_short_name(inside)
            except ValueError:
                return  # reported where it is validated
        if inside is not None and not isinstance(inside, dict):
            yield Problem(
                code="SW124",
                path=key,
                found=f"{name} is {show(inside)}, so it has no key {last!r}",
                expected=f"a value for {name} itself",
                fix=f"write {name} in place of {key}",
            )
            return
        place[name] = dict(inside or {})
        place = place[name]
    place[last] = value


def find_claim_faults(strategy: Strategy, known: Mapping[str, Any]) -> Iterator[tuple[int, Problem]]:
    """The number of each claim whose `with` has a key or value that is not legal, and what is wrong there."""
    for number, claim in enumerate(strategy.claims):
        if claim.changes:
            try:
                changed_strategy(strategy, claim.changes, known)
            except StrategyError as error:
                yield from ((number, problem) for problem in error.problems)
