"""Collectives and P2P transfers of one step: kind, groups and size of each.

The sizes are those that the prediction counts with. Preflight runs these exchanges and compares
the measured times with those predicted here.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

from planner.counts.parameters import stage_parameters
from planner.counts.payload import payload_bytes
from planner.counts.rank_workload import rank_workload
from planner.plan.ds_config import bucket_elements
from planner.plan.plan import Plan
from planner.timing import collective_time
from planner.timing.collective_time import Network
from planner.timing.layer_collectives import dispatched_bytes
from planner.topology.placement import Stage
from planner.topology.stage_boundary import list_transfers

ExchangeKind = Literal["all_reduce", "all_to_all", "send"]
Message = tuple[int, int, int]  # sender, receiver, bytes


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One kind of exchange, all its groups at once.

    num_bytes: what a rank sums or holds for its group, its own part included; of a send, what the busiest
    rank sends or receives. groups: of a collective; messages: of a send. axis: the groups' in `stage`.
    """

    name: str
    kind: ExchangeKind
    stage: str
    axis: str
    num_bytes: int
    element_bytes: int
    groups: tuple[tuple[int, ...], ...] = ()
    messages: tuple[Message, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.name}, {self.stage}"


def exchanges_of(plan: Plan) -> tuple[Exchange, ...]:
    """Every exchange of the plan that has two ranks or more; the same on every rank."""
    found = [exchange for stage in plan.stages for exchange in _inside(plan, stage)]
    found += [_stage_p2p(plan, before, after) for before, after in pairwise(plan.stages)]
    return tuple(found)


def host_pairs(plan: Plan) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Every pair of hosts once, in rounds in which no host is in two pairs (the circle method)."""
    names: list[str | None] = [host.name for host in plan.hosts]
    if len(names) % 2:
        names.append(None)
    rounds = []
    for _ in range(len(names) - 1):
        half = len(names) // 2
        met = zip(names[:half], reversed(names[half:]), strict=True)
        rounds.append(tuple((a, b) for a, b in met if a is not None and b is not None))
        names = [names[0], names[-1], *names[1:-1]]
    return tuple(pairs for pairs in rounds if pairs)


def rank_pairs(plan: Plan, pair: tuple[str, str]) -> tuple[tuple[int, int], ...]:
    """The ranks that talk to each other when two hosts do: each local rank to its like."""
    ranks = {host.name: host.ranks for host in plan.hosts}
    return tuple(zip(ranks[pair[0]], ranks[pair[1]], strict=False))


def neighbours(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Pairs of ranks on one host, each rank in one pair at most."""
    return tuple(pair for host in plan.hosts for pair in zip(host.ranks[::2], host.ranks[1::2], strict=False))


def predicted_s(plan: Plan, exchange: Exchange, network: Network) -> float:
    """Seconds that the prediction counts for the exchange once, in the group placed worst."""
    if exchange.kind == "send":
        same_host = all(
            plan.host_of(sender) == plan.host_of(receiver) for sender, receiver, _ in exchange.messages
        )
        ends = Counter(rank for sender, receiver, _ in exchange.messages for rank in (sender, receiver))
        most = max(ends.values())
        return collective_time.send_s(exchange.num_bytes, network, same_host=same_host, messages=most)
    stage = next(stage for stage in plan.stages if stage.name == exchange.stage)
    placement = network.placement(stage, exchange.axis)
    if exchange.kind == "all_to_all":
        return collective_time.all_to_all_s(exchange.num_bytes, placement, network)
    return collective_time.all_reduce_s(exchange.num_bytes, placement, network)


def hosts_spanned(plan: Plan, ranks: tuple[int, ...]) -> tuple[str, ...]:
    """The hosts of ranks, in their order."""
    return tuple(dict.fromkeys(plan.host_of(rank).name for rank in ranks))


def _inside(plan: Plan, stage: Stage) -> Iterator[Exchange]:
    p = rank_workload(plan, stage)
    if p.tp > 1:
        yield Exchange(
            name="TP all-reduce",
            kind="all_reduce",
            stage=stage.name,
            axis="tp",
            num_bytes=p.tokens * p.model.hidden_size * p.element_bytes,
            element_bytes=p.element_bytes,
            groups=stage.dense.groups("tp"),
        )
    has_experts = stage.num_layers(p.model.first_dense_layers)[1] > 0
    if stage.expert is not None and p.ep > 1 and has_experts:
        yield Exchange(
            name="EP all-to-all",
            kind="all_to_all",
            stage=stage.name,
            axis="ep",
            num_bytes=ceil(dispatched_bytes(plan, p)),
            element_bytes=1 if plan.strategy.runtime.fp8_payload else p.element_bytes,
            groups=stage.expert.groups("ep"),
        )
    yield from _gradients(plan, stage)


def _gradients(plan: Plan, stage: Stage) -> Iterator[Exchange]:
    """DeepSpeed sums gradients in buckets, those of experts over their own peers (timing.optimizer_time)."""
    tensors = stage_parameters(plan.strategy.model, stage)
    experts = sum(tensor.num_elements for tensor in tensors if tensor.is_expert)
    dense = sum(tensor.num_elements for tensor in tensors) - experts
    element = plan.strategy.training.element_bytes
    for name, axis, grid, elements in (
        ("gradient reduce", "data", stage.dense, dense),
        ("expert gradient reduce", "edp", stage.expert, experts),
    ):
        if grid is not None and grid.size(axis) > 1 and elements:
            yield Exchange(
                name=name,
                kind="all_reduce",
                stage=stage.name,
                axis=axis,
                num_bytes=min(elements, bucket_elements(plan)) * element,
                element_bytes=element,
                groups=grid.groups(axis),
            )


def _stage_p2p(plan: Plan, before: Stage, after: Stage) -> Exchange:
    training, hidden = plan.strategy.training, plan.strategy.model.hidden_size
    sequences = plan.batch.global_batch // plan.batch.accumulation
    element = 1 if plan.strategy.runtime.fp8_payload else training.element_bytes
    sizes: dict[tuple[int, int], int] = {}
    for sender in before.ranks:
        for piece in list_transfers(sender, before, after, sequences, hidden):
            rows = (piece.rows[1] - piece.rows[0]) * training.seq_length
            elements = rows * (piece.columns[1] - piece.columns[0])
            ends = (piece.sender, piece.receiver)
            sizes[ends] = sizes.get(ends, 0) + payload_bytes(plan.strategy, elements, rows)
    busy: dict[int, int] = {}
    for ends, num_bytes in sizes.items():
        for rank in ends:
            busy[rank] = busy.get(rank, 0) + num_bytes
    return Exchange(
        name="stage P2P",
        kind="send",
        stage=f"{before.name} → {after.name}",
        axis="",
        num_bytes=max(busy.values()),
        element_bytes=element,
        messages=tuple((*ends, num_bytes) for ends, num_bytes in sorted(sizes.items())),
    )
