"""Operator variables (EMBEDDING_GPUS, MAX_MEMORY_PER_GPU …), checked against a plan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan.memory_limit import memory_limit
from planner.plan.plan import Plan
from planner.problems import Problem, StrategyError
from planner.units import format_bytes, shorten

GROUP_VARIABLES = ("EMBEDDING_GPUS", "EXPERT_GPUS", "AGGREGATION_GPUS")
MEMORY_VARIABLES = ("MAX_MEMORY_PER_GPU", "MEMORY_FRACTION")
# Two ways to write one limit may differ by this much through rounding; more is worth a warning.
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class OperatorEnvironment:
    """The variables as text (they go into plan.json), and the memory limit that follows from them.

    limits: bytes that each memory variable allows.
    """

    values: dict[str, str]
    limits: dict[str, int]
    memory_limit_bytes: int
    warnings: tuple[str, ...]


def list_group_ranks(plan: Plan) -> dict[str, tuple[int, ...]]:
    """The ranks that each group variable must list.

    Staged: embedding, expert and aggregation ranks. Colocated: the first stage, all ranks, the last stage.
    """
    if plan.strategy.parallel.placement == "colocated":
        experts = tuple(range(plan.world_size))
    else:
        experts = tuple(rank for stage in plan.stages if stage.expert is not None for rank in stage.ranks)
    return {
        "EMBEDDING_GPUS": plan.stages[0].ranks,
        "EXPERT_GPUS": experts,
        "AGGREGATION_GPUS": plan.stages[-1].ranks,
    }


def read_environment(plan: Plan, environ: Mapping[str, str]) -> OperatorEnvironment:
    """The operator's variables, checked against a plan; those that are unset or empty are left out.

    Raises:
        StrategyError: a malformed value, or ranks that differ from the plan's.
    """
    values = {name: environ[name] for name in (*GROUP_VARIABLES, *MEMORY_VARIABLES) if environ.get(name)}
    problems: list[Problem] = []
    for name, ranks in list_group_ranks(plan).items():
        if name in values:
            problems += _compare(name, values[name], ranks)
    limits: dict[str, int] = {}
    gpu_memory = plan.strategy.cluster.gpu.memory
    for name in MEMORY_VARIABLES:
        if name in values:
            limit = _read_memory(name, values[name], gpu_memory)
            if isinstance(limit, Problem):
                problems.append(limit)
            else:
                limits[name] = limit
    if problems:
        raise StrategyError(problems)
    return OperatorEnvironment(
        values=values,
        limits=limits,
        memory_limit_bytes=min(limits.values(), default=memory_limit(plan.strategy)),
        warnings=_warn_of_contradiction(values, limits),
    )


def _warn_of_contradiction(values: dict[str, str], limits: dict[str, int]) -> tuple[str, ...]:
    if len(limits) < 2:
        return ()
    low, high = sorted(limits, key=lambda name: limits[name])
    if limits[high] - limits[low] <= _ROUNDING * limits[high]:
        return ()
    return (
        f"SW304 {low}={values[low]} is {limits[low]:,} bytes and {high}={values[high]} is "
        f"{limits[high]:,} bytes: the smaller, {format_bytes(limits[low])}, applies",
    )


def parse_ranks(text: str) -> tuple[int, ...]:
    """The ranks of a list of numbers and ranges (`0,1,4-7`), ascending.

    Raises:
        ValueError: not such a list, a descending range, or a rank listed twice.
    """
    ranks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r" *([0-9]{1,7})(?: *- *([0-9]{1,7}))? *", part)
        if match is None:
            raise ValueError(f"{shorten(part.strip(' '))!r} is not a rank or a range of ranks")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise ValueError(f"the range {part.strip()} is descending")
        if last - first > 2**20:
            raise ValueError(f"the range {part.strip()} is longer than any plan")
        ranks += range(first, last + 1)
    if len(set(ranks)) < len(ranks):
        raise ValueError("a rank is listed twice")
    return tuple(sorted(ranks))


def format_ranks(ranks: tuple[int, ...]) -> str:
    """Ranks as numbers and ranges, which `parse_ranks` reads back: `0,1` for a pair, `2-65` for more."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ",".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(str(rank) for rank in run) for run in runs
    )


def _compare(name: str, text: str, ranks: tuple[int, ...]) -> list[Problem]:
    expected = f"the plan's ranks: {format_ranks(ranks)}"
    try:
        given = parse_ranks(text)
    except ValueError as error:
        return [
            _problem(
                "SW302", name, str(error), f"ranks and ranges, here {format_ranks(ranks)}", f"correct {name}"
            )
        ]
    if given == tuple(sorted(ranks)):
        return []
    found = f"{shorten(format_ranks(given), 80)} differ from the plan's ranks"
    return [
        _problem(
            "SW302", name, found, expected, f"unset {name}, or change the strategy's degrees or rank_order"
        )
    ]


def _read_memory(name: str, text: str, gpu_memory: int) -> int | Problem:
    """The limit in bytes."""
    text = text.strip(" ")  # a line break would end the variable's line in the file of a launch
    if name == "MAX_MEMORY_PER_GPU":
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
            found = f"{shorten(text)!r} is not a number of bytes"
            return _problem(
                "SW303", name, found, "an integer number of bytes above 0, without a unit", f"correct {name}"
            )
        return int(text)
    if (
        not re.fullmatch(r"[0-9]{0,3}(\.[0-9]{0,17})?", text)
        or not text.strip(".")
        or not 0 < float(text) <= 1
    ):
        found = f"{shorten(text)!r} is not a fraction of the GPU's memory"
        return _problem("SW303", name, found, "a number above 0, at most 1", f"correct {name}")
    return int(float(text) * gpu_memory)


def _problem(code: str, name: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(code=code, path=name, found=found, expected=expected, fix=fix, file="environment")
