"""P2P trials of links: latency and bandwidth each way between pairs of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.preflight.exchange_trials import TrialWorld, count_repeats, describe_difference, encode


@dataclass(frozen=True, kw_only=True)
class LinkTrial:
    """Measurement of a pair's first rank: half the round trip of a small message, one way of a large one.

    there_s: from it to its peer. back_s: from its peer to it. wrong: what was wrong with the values, or "".
    """

    latency_s: float
    there_s: float
    back_s: float
    wrong: str


def run_pairs(pairs: Sequence[tuple[int, int]], num_bytes: int, world: TrialWorld) -> LinkTrial | None:
    """Messages between pairs of ranks, all pairs at once; a result on each pair's first rank. Collective.

    All times are of the first rank's clock: what it sends is acknowledged, what it receives it requests, and
    half of the shortest round trip is subtracted for that.
    """
    world.barrier()
    pair = next((pair for pair in pairs if world.rank in pair), None)
    if pair is None:
        return None
    end = _End(pair, num_bytes, world)
    if world.rank == pair[0]:
        return end.lead()
    end.follow()
    return None


def _one_way(seconds: float, round_trip_s: float) -> float:
    """Without the small message: half the shortest round trip, at most half of `seconds` (noise)."""
    return seconds - min(round_trip_s, seconds) / 2


class _End:
    """One rank's end of a link."""

    def __init__(self, pair: tuple[int, int], num_bytes: int, world: TrialWorld) -> None:
        self._world = world
        self._peer = pair[1] if world.rank == pair[0] else pair[0]
        count, device = max(1, num_bytes // 4), world.device
        self._sent = encode(world.rank, self._peer, count, torch.float32, device)
        self._expected = encode(self._peer, world.rank, count, torch.float32, device)
        self._received = torch.empty_like(self._expected)
        self._small = torch.zeros(1, device=device)

    def lead(self) -> LinkTrial:
        self._lead_turn()
        repeats = count_repeats(sum(self._lead_turn()), self._world.budget_s)
        self._send(torch.full_like(self._small, float(repeats)))
        turns = [self._lead_turn() for _ in range(repeats)]
        wrong = describe_difference(self._received, self._expected, f"what rank {self._peer} sent")
        if self._receive_small() and not wrong:
            wrong = f"rank {self._peer} did not receive what rank {self._world.rank} sent"
        round_trips, there, back = zip(*turns, strict=True)
        return LinkTrial(
            latency_s=median(round_trips) / 2,
            there_s=_one_way(median(there), min(round_trips)),
            back_s=_one_way(median(back), min(round_trips)),
            wrong=wrong,
        )

    def follow(self) -> None:
        for _ in range(2):
            self._follow_turn()
        for _ in range(int(self._receive_small())):
            self._follow_turn()
        is_wrong = describe_difference(self._received, self._expected, "") != ""
        self._send(torch.full_like(self._small, float(is_wrong)))

    def _lead_turn(self) -> tuple[float, float, float]:
        """Seconds of a round trip, of a large message until acknowledged, and of a requested one."""
        self._received.zero_()
        now = self._world.now
        began = now()
        self._send(self._small)
        self._receive_small()
        returned = now()
        self._send(self._sent)
        self._receive_small()
        acknowledged = now()
        self._send(self._small)
        dist.recv(self._received, self._peer)
        return returned - began, acknowledged - returned, now() - acknowledged

    def _follow_turn(self) -> None:
        self._received.zero_()
        self._world.now()
        self._receive_small()
        self._send(self._small)
        dist.recv(self._received, self._peer)
        self._send(self._small)
        self._receive_small()
        self._send(self._sent)

    def _send(self, values: Tensor) -> None:
        dist.send(values, self._peer)

    def _receive_small(self) -> float:
        """Also waits for what was received before it."""
        values = torch.empty_like(self._small)
        dist.recv(values, self._peer)
        return float(values.item())
