"""Registry of rules: what a strategy must satisfy beyond the form of its keys, one small function each."""

from collections.abc import Callable, Iterator

from planner.problems import Problem
from planner.rules import (
    batch,
    corruption,
    data,
    deepspeed_dispatch,
    float8,
    forced_routing,
    hosts,
    layout,
    model,
    stages,
)
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy

Rule = Callable[[Strategy], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    *layout.RULES,
    *stages.RULES,
    *hosts.RULES,
    *model.RULES,
    *deepspeed_dispatch.RULES,
    *float8.RULES,
    *forced_routing.RULES,
    *batch.RULES,
    *corruption.RULES,
    *data.RULES,
)


def find_broken_rules(strategy: Strategy) -> Iterator[Problem]:
    """The Problems of every rule that the strategy breaks; a rule that reads a faulty key is left out."""
    for rule in RULES:
        yield from find_broken_rule(rule, strategy)


def find_broken_rule(rule: Rule, strategy: Strategy) -> Iterator[Problem]:
    """The Problems of one rule; none where it reads a faulty key, which has its own Problem already."""
    try:
        yield from rule(strategy)
    except UnknownValueError:
        return
