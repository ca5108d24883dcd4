"""Continuation of one layout after a loss, on the hosts that remain, for each place of the loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.build import build_plan
from planner.plan.plan import Host, Plan
from planner.problems import StrategyError
from planner.strategy.changes import change_keys
from planner.strategy.hosts import Hosts
from planner.strategy.schema import Strategy

# unchanged: only idle GPUs are lost. moved: ranks move to spare hosts, the same number on each host in their
# order. regrouped: the layout fits, with other numbers of ranks per host. no: too few GPUs remain.
Answer = Literal["unchanged", "moved", "regrouped", "no"]
_FROM_BEST = ("unchanged", "moved", "regrouped", "no")


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One place of a loss, and whether the layout as written continues there.

    lost: GPUs lost by each host that lost some. hosts: where the ranks are then; () for no. gpus_left: GPUs
    of all hosts that remain.
    """

    place: str
    lost: dict[str, int]
    answer: Answer
    hosts: tuple[Host, ...]
    gpus_left: int

    @property
    def is_bit_identical(self) -> bool:
        """The same ranks share hosts, so that every collective adds in the same order."""
        return self.answer in ("unchanged", "moved")


def continuations(plan: Plan, *, lost_hosts: int = 0, lost_gpus: int = 0) -> tuple[Continuation, ...]:
    """The answers for a loss at the end of the list, on the hosts with the most ranks, and scattered.

    Places that lose the same GPUs are given once. Scattered: one GPU a host, in turn; a loss of GPUs only.
    """
    names, slots = plan.strategy.cluster.hosts.names, plan.strategy.cluster.slots
    at_end = range(len(names) - 1, -1, -1)
    position = {host.name: i for i, host in enumerate(plan.hosts)}
    in_use = sorted(range(len(names)), key=lambda i: (position.get(names[i], len(names)), i))
    places = {"the last hosts": at_end, "the first hosts that carry ranks": in_use}
    losses = {
        place: _lose_hosts(slots, order, lost_hosts)
        if lost_hosts
        else _lose_together(slots, order, lost_gpus)
        for place, order in places.items()
    }
    if lost_gpus > 1:
        losses["as many hosts that carry ranks as possible"] = _lose_scattered(slots, in_use, lost_gpus)
    found: list[Continuation] = []
    for place, lost in losses.items():
        by_name = {name: number for name, number in zip(names, lost, strict=True) if number}
        if all(by_name != each.lost for each in found):
            found.append(_continue(plan, place, lost, by_name))
    return tuple(found)


def worst(found: Sequence[Continuation]) -> Continuation:
    return max(found, key=lambda each: _FROM_BEST.index(each.answer))


def _lose_hosts(slots: Sequence[int], order: Sequence[int], number: int) -> list[int]:
    lost = [0] * len(slots)
    for i in order[:number]:
        lost[i] = slots[i]
    return lost


def _lose_together(slots: Sequence[int], order: Sequence[int], number: int) -> list[int]:
    lost = [0] * len(slots)
    for i in order:
        lost[i] = min(slots[i], number)
        number -= lost[i]
    return lost


def _lose_scattered(slots: Sequence[int], order: Sequence[int], number: int) -> list[int]:
    lost = [0] * len(slots)
    while number:
        for i in order:
            if number and lost[i] < slots[i]:
                lost[i] += 1
                number -= 1
    return lost


def _continue(plan: Plan, place: str, lost: Sequence[int], by_name: dict[str, int]) -> Continuation:
    slots = [slot - less for slot, less in zip(plan.strategy.cluster.slots, lost, strict=True)]
    answer: Answer = "no"
    hosts: tuple[Host, ...] = ()
    for strategy in _ways(plan.strategy, slots):
        try:
            moved = build_plan(strategy).hosts
        except StrategyError:
            continue
        way = _compare(plan.hosts, moved)
        if _FROM_BEST.index(way) < _FROM_BEST.index(answer):
            answer, hosts = way, moved
    return Continuation(place=place, lost=by_name, answer=answer, hosts=hosts, gpus_left=sum(slots))


def _ways(strategy: Strategy, slots: Sequence[int]) -> Iterator[Strategy]:
    """Everything that remains; then hosts cut to equal numbers of slots, as many as each number allows."""
    names = strategy.cluster.hosts.names
    for most in (max(slots), *sorted({slot for slot in slots if slot}, reverse=True)):
        least = 1 if most == max(slots) else most
        kept = [(name, min(slot, most)) for name, slot in zip(names, slots, strict=True) if slot >= least]
        if kept:
            hosts = Hosts(names=tuple(name for name, _ in kept), slots=tuple(slot for _, slot in kept))
            yield change_keys(strategy, {"cluster.hosts": hosts, "cluster.spare_hosts": 0})


def _compare(before: Sequence[Host], after: Sequence[Host]) -> Answer:
    if tuple(before) == tuple(after):
        return "unchanged"
    sizes = [len(host.ranks) for host in after]
    if [len(host.ranks) for host in before] == sizes:
        return "moved"
    # DeepSpeed 0.19.8 finds a rank's local rank only where all hosts before its own are equally full.
    return "regrouped" if len(set(sizes[:-1])) <= 1 else "no"
