"""Runs one exchange of a plan for real: are the values right, and how long does each rank take for it.

Values are made so that sums are exact in any dtype, and a missing, doubled or misplaced contribution shows.
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
class Trial:
    """What one rank saw of an exchange.

    Medians over its own repetitions, each from a common start: median_s until the exchange is done, issue_s
    until the rank has begun its own part of it. A rank that is slow by itself shows in the second; the first
    is long on all that wait for it. wrong: what was wrong with the values, or "".
    """

    median_s: float
    issue_s: float
    repeats: int
    wrong: str


@dataclass(frozen=True, kw_only=True)
class World:
    """The world as a trial needs it. `budget_s`: of the repetitions of one exchange, at most."""

    rank: int
    device: torch.device
    budget_s: float

    def now(self) -> float:
        """The time at which all work so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def largest(self, value: float) -> float:
        """Collective over the world."""
        found = torch.tensor([value], dtype=torch.float32, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return float(found.item())

    def meet(self, group: dist.ProcessGroup | None = None) -> None:
        """All ranks of the group, or of the world, have come here."""
        dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        self.now()


class Work(Protocol):
    """An exchange on one rank: filled with values that tell who sent them, begun, looked at when done."""

    def fill(self) -> None: ...
    def start(self) -> list[dist.Work]: ...
    def wrong(self) -> str: ...


def run_exchange(exchange: Exchange, group: Group | None, world: World) -> Trial | None:
    """One exchange by all its groups at once; None on a rank that has no part in it. Collective.

    Args:
        group: this rank's group in the exchange, if it is a collective and the rank is in one.
    """
    work: Work | None = None
    meeting = None
    if exchange.kind == "send":
        if any(world.rank in message[:2] for message in exchange.messages):
            work = _Sends(exchange, world)
    elif group is not None:
        work = (_AllReduce if exchange.kind == "all_reduce" else _AllToAll)(exchange, group, world)
        meeting = group.process_group
    # Connections are made in the first; what the second takes says how often there is time for.
    found, seconds = "", 0.0
    for _ in range(2):
        world.meet()
        if work is not None:
            work.fill()
            seconds = _once(work, world)[1]
            found = found or work.wrong()
    repeats = repeats_in(world.largest(seconds), world.budget_s)
    if work is None and exchange.kind != "send":
        return None  # the others meet in their groups from here on; those that send meet in the world
    times = []
    for _ in range(repeats):
        world.meet(meeting)
        if work is not None:
            times.append(_once(work, world))
    world.meet(meeting)
    if work is None:
        return None
    work.fill()
    _once(work, world)
    return Trial(
        median_s=median(whole for _, whole in times),
        issue_s=median(issued for issued, _ in times),
        repeats=repeats,
        wrong=found or work.wrong(),
    )


def _once(work: Work, world: World) -> tuple[float, float]:
    """Seconds until this rank's part is begun, and until the exchange is done."""
    began = world.now()
    pending = work.start()
    issued = time.perf_counter() - began
    for part in pending:
        part.wait()
    return issued, world.now() - began


def repeats_in(once_s: float, budget_s: float) -> int:
    return int(min(MAX_REPEATS, max(MIN_REPEATS, budget_s / max(once_s, 1e-6))))


class _AllReduce:
    """Element i holds i mod 7 + 1 on the member whose turn i is, and 0 on the others."""

    def __init__(self, exchange: Exchange, group: Group, world: World) -> None:
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

    def wrong(self) -> str:
        return difference(self._values, self._sum, "the sum")


class _AllToAll:
    """Every element tells who sent it to whom, and where it stands."""

    def __init__(self, exchange: Exchange, group: Group, world: World) -> None:
        self._group, self._world = group, world
        self._dtype = _DTYPES[exchange.element_bytes]
        self._count = max(1, exchange.num_bytes // exchange.element_bytes // group.size)
        ranks = group.ranks
        self._sent = torch.cat([self._coded(world.rank, peer) for peer in ranks])
        self._received = torch.empty_like(self._sent)
        self._expected = torch.cat([self._coded(peer, world.rank) for peer in ranks])

    def fill(self) -> None:
        self._received.zero_()

    def start(self) -> list[dist.Work]:
        group = self._group.process_group
        return [dist.all_to_all_single(self._received, self._sent, group=group, async_op=True)]

    def wrong(self) -> str:
        return difference(self._received, self._expected, "what the others sent")

    def _coded(self, sender: int, receiver: int) -> Tensor:
        return coded(sender, receiver, self._count, self._dtype, self._world.device)


class _Sends:
    """All messages between two stages; a rank sends or receives its own, or only keeps step."""

    def __init__(self, exchange: Exchange, world: World) -> None:
        self._rank = world.rank
        dtype, element = _DTYPES[exchange.element_bytes], exchange.element_bytes
        self.messages: list[Message] = [m for m in exchange.messages if world.rank in m[:2]]
        self._coded = [coded(a, b, max(1, n // element), dtype, world.device) for a, b, n in self.messages]
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

    def wrong(self) -> str:
        for (sender, receiver, _), values, known in zip(
            self.messages, self._values, self._coded, strict=True
        ):
            if receiver == self._rank:
                found = difference(values, known, f"what rank {sender} sent")
                if found:
                    return found
        return ""


def coded(sender: int, receiver: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values below 251, exact in every dtype here, other ones for each pair of ranks."""
    return ((torch.arange(count, device=device) + 37 * sender + 17 * receiver) % 251).to(dtype)


def difference(found: Tensor, expected: Tensor, what: str) -> str:
    if torch.equal(found, expected):
        return ""
    places = (found != expected).nonzero().flatten()
    first = int(places[0])
    return (
        f"{len(places)} of {len(found)} values are not {what}: element {first} is "
        f"{float(found[first]):g}, not {float(expected[first]):g}"
    )
