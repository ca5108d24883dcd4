"""Trials of a plan's exchanges: checks the values of a collective or transfer, and times it on each rank.

Values are chosen so that sums are exact in any dtype, and a missing, doubled or misplaced contribution shows.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from model.collectives import Group
from planner.timing.exchanges import Exchange, Message

MIN_REPEATS, MAX_REPEATS = 3, 30
_DTYPES = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}


@dataclass(frozen=True, kw_only=True)
class ExchangeTrial:
    """One rank's measurement of an exchange.

    Medians over its repetitions, each from a common start: median_s until the exchange is done, issue_s until
    the rank has issued its own part of it. A slow rank shows in issue_s; median_s is long on all ranks that
    wait for it. wrong: what was wrong with the values, or "".
    """

    median_s: float
    issue_s: float
    repeats: int
    wrong: str


@dataclass(frozen=True, kw_only=True)
class TrialWorld:
    """This rank's place in the world. `budget_s`: upper bound for the repetitions of one exchange."""

    rank: int
    device: torch.device
    budget_s: float

    def now(self) -> float:
        """The host's clock once all work so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def largest(self, value: float) -> float:
        """Collective over the world."""
        found = torch.tensor([value], dtype=torch.float32, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return float(found.item())

    def barrier(self, group: dist.ProcessGroup | None = None) -> None:
        """A barrier of the group, or of the world."""
        dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        self.now()


class _Exchanger(Protocol):
    """One rank's part of an exchange: fill with values that identify their sender, start, check when done."""

    def fill(self) -> None: ...
    def start(self) -> list[dist.Work]: ...
    def check(self) -> str: ...


def run_exchange(exchange: Exchange, group: Group | None, world: TrialWorld) -> ExchangeTrial | None:
    """One exchange in all its groups at once; None on a rank that has no part in it. Collective.

    Args:
        group: this rank's group in the exchange, if it is a collective and the rank is in one.
    """
    exchanger: _Exchanger | None = None
    barrier_group = None
    if exchange.kind == "send":
        if any(world.rank in message[:2] for message in exchange.messages):
            exchanger = _Sends(exchange, world)
    elif group is not None:
        exchanger = (_AllReduce if exchange.kind == "all_reduce" else _AllToAll)(exchange, group, world)
        barrier_group = group.process_group
    # The first run makes the connections; the time of the second decides how many repetitions fit.
    found, seconds = "", 0.0
    for _ in range(2):
        world.barrier()
        if exchanger is not None:
            exchanger.fill()
            seconds = _run_once(exchanger, world)[1]
            found = found or exchanger.check()
    repeats = count_repeats(world.largest(seconds), world.budget_s)
    if exchanger is None and exchange.kind != "send":
        return None  # from here on the others have barriers in their groups; those that send, in the world
    times = []
    for _ in range(repeats):
        world.barrier(barrier_group)
        if exchanger is not None:
            times.append(_run_once(exchanger, world))
    world.barrier(barrier_group)
    if exchanger is None:
        return None
    exchanger.fill()
    _run_once(exchanger, world)
    return ExchangeTrial(
        median_s=median(total for _, total in times),
        issue_s=median(issued for issued, _ in times),
        repeats=repeats,
        wrong=found or exchanger.check(),
    )


def _run_once(exchanger: _Exchanger, world: TrialWorld) -> tuple[float, float]:
    """Seconds until this rank's part is issued, and until the exchange is done."""
    began = world.now()
    pending = exchanger.start()
    issued = time.perf_counter() - began
    for part in pending:
        part.wait()
    return issued, world.now() - began


def count_repeats(once_s: float, budget_s: float) -> int:
    return int(min(MAX_REPEATS, max(MIN_REPEATS, budget_s / max(once_s, 1e-6))))


class _AllReduce:
    """Element i is i mod 7 + 1 on the member i mod group size, and 0 on the others."""

    def __init__(self, exchange: Exchange, group: Group, world: TrialWorld) -> None:
        dtype = _DTYPES[exchange.element_bytes]
        count = max(group.size, exchange.num_bytes // exchange.element_bytes)
        place = torch.arange(count, device=world.device)
        self._group = group
        self._sum = (place % 7 + 1).to(dtype)
        self._mine = torch.where(place % group.size == group.rank, self._sum, 0)
        self._values = torch.empty_like(self._sum)

    def fill(self) -> None:
        self._values.copy_(self._mine)

    def start(self) -> list[dist.Work]:
        return [dist.all_reduce(self._values, group=self._group.process_group, async_op=True)]

    def check(self) -> str:
        return describe_difference(self._values, self._sum, "the sum")


class _AllToAll:
    """Every element encodes its sender, its receiver and its position."""

    def __init__(self, exchange: Exchange, group: Group, world: TrialWorld) -> None:
        self._group, self._world = group, world
        self._dtype = _DTYPES[exchange.element_bytes]
        self._count = max(1, exchange.num_bytes // exchange.element_bytes // group.size)
        ranks = group.ranks
        self._sent = torch.cat([self._encode(world.rank, peer) for peer in ranks])
        self._received = torch.empty_like(self._sent)
        self._expected = torch.cat([self._encode(peer, world.rank) for peer in ranks])

    def fill(self) -> None:
        self._received.zero_()

    def start(self) -> list[dist.Work]:
        group = self._group.process_group
        return [dist.all_to_all_single(self._received, self._sent, group=group, async_op=True)]

    def check(self) -> str:
        return describe_difference(self._received, self._expected, "what the others sent")

    def _encode(self, sender: int, receiver: int) -> Tensor:
        return encode(sender, receiver, self._count, self._dtype, self._world.device)


class _Sends:
    """All messages between two stages; a rank sends or receives its own."""

    def __init__(self, exchange: Exchange, world: TrialWorld) -> None:
        self._rank = world.rank
        dtype, element = _DTYPES[exchange.element_bytes], exchange.element_bytes
        self.messages: list[Message] = [m for m in exchange.messages if world.rank in m[:2]]
        self._coded = [encode(a, b, max(1, n // element), dtype, world.device) for a, b, n in self.messages]
        self._values = [torch.empty_like(values) for values in self._coded]

    def fill(self) -> None:
        for (_, receiver, _), values, known in zip(self.messages, self._values, self._coded, strict=True):
            if receiver == self._rank:
                values.zero_()
            else:
                values.copy_(known)

    def start(self) -> list[dist.Work]:
        operations = [
            dist.P2POp(dist.irecv, values, sender)
            if receiver == self._rank
            else dist.P2POp(dist.isend, values, receiver)
            for (sender, receiver, _), values in zip(self.messages, self._values, strict=True)
        ]
        return dist.batch_isend_irecv(operations)

    def check(self) -> str:
        for (sender, receiver, _), values, known in zip(
            self.messages, self._values, self._coded, strict=True
        ):
            if receiver == self._rank:
                found = describe_difference(values, known, f"what rank {sender} sent")
                if found:
                    return found
        return ""


def encode(sender: int, receiver: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values below 251, exact in every dtype here, different for each pair of ranks."""
    return ((torch.arange(count, device=device) + 37 * sender + 17 * receiver) % 251).to(dtype)


def describe_difference(found: Tensor, expected: Tensor, what: str) -> str:
    if torch.equal(found, expected):
        return ""
    places = (found != expected).nonzero().flatten()
    first = int(places[0])
    return (
        f"{len(places)} of {len(found)} values are not {what}: element {first} is "
        f"{float(found[first]):g}, not {float(expected[first]):g}"
    )
