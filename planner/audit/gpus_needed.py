"""GPUs that a layout needs, on the cluster or beyond it: of its degrees alone, before a plan exists."""

from collections.abc import Iterator, Mapping
from typing import Any

from planner.audit.verdicts import Derivation
from planner.problems import Problem
from planner.rules.registry import find_broken_rules
from planner.strategy.changes import change_keys
from planner.strategy.parallel import Parallel
from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size, world_size

_PLACES = ("parallel", "parallel.placement")


def gpus_needed(strategy: Strategy, changes: Mapping[str, Any]) -> Iterator[Derivation]:
    """Of a strategy, which `changes` led to. Its own placement decides; the other is printed beside it,
    unless the placement is one of the changes."""
    own = strategy.parallel.placement
    batch = _batch(strategy) if "training.global_batch" in changes else ""
    yield _needs(strategy, batch, of=own)
    if not any(key in changes for key in _PLACES):
        other = "staged" if own == "colocated" else "colocated"
        placed = {"parallel.placement": other, "parallel.rank_order": "document"}
        yield _needs(change_keys(strategy, placed), "", of=other, decides=False)


def too_many_gpus(strategy: Strategy) -> bool:
    """Whether the degrees need more GPUs than the cluster has; CPUs run any number of ranks."""
    return world_size(strategy.parallel) > sum(strategy.cluster.slots) and not strategy.cluster.gpu.is_cpu


def _needs(strategy: Strategy, batch: str, *, of: str, decides: bool = True) -> Derivation:
    available, world = sum(strategy.cluster.slots), world_size(strategy.parallel)
    too_many = too_many_gpus(strategy)
    broken = [problem for problem in find_broken_rules(strategy) if not _is_of_size(problem)]
    text = f"{strategy.parallel.short_name} {of}: {_sum_of_degrees(strategy.parallel)}"
    if broken:
        text += f"; not legal: {broken[0].path}: {broken[0].found}"
    else:
        text += batch
        text += "" if too_many else f"; {available - world} of {available} left"
    return Derivation(
        of=of,
        value=None if broken else world,
        arithmetic=text,
        decides=decides,
        exceeds=too_many and not broken,
        why=f"{world} GPUs are more than the cluster's {available}" if too_many else "",
    )


def _is_of_size(problem: Problem) -> bool:
    return problem.path == "parallel"


def _batch(strategy: Strategy) -> str:
    """Where a larger batch goes: into accumulation."""
    training, widest = strategy.training, largest_data_parallel_size(strategy.parallel)
    steps = training.global_batch // (training.micro_batch * widest)
    return (
        f"; {training.global_batch} = micro_batch {training.micro_batch} × accumulation {steps} × {widest}: "
        "a larger batch takes more accumulation steps, not more GPUs"
    )


def _sum_of_degrees(p: Parallel) -> str:
    world = world_size(p)
    if p.placement == "staged":
        each = f"{p.tp} + {p.pp * p.ep} + {p.tp}"
        return f"{p.dp} × ({each}) = {world}" if p.dp > 1 else f"{each} = {world}"
    return f"pp {p.pp} × dp {p.dp} × max(ep {p.ep}, tp {p.tp}) = {world}"
