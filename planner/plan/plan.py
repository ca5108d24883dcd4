"""Plan of a strategy: ranks on hosts, stages, batch, fingerprint."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache

from planner.plan.fingerprint import plan_fingerprint
from planner.strategy.cluster import Cluster
from planner.strategy.execution import Reduce
from planner.strategy.schema import Strategy
from planner.topology.host_blocks import host_slots
from planner.topology.layout import Layout, layout_of
from planner.topology.placement import Stage, largest_data_parallel_size, world_size


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host with ranks; local rank i is `ranks[i]`."""

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """micro_batch × accumulation × the largest data-parallel size of a stage = global_batch."""

    global_batch: int
    micro_batch: int
    accumulation: int

    def micro_batch_of(self, stage: Stage) -> int:
        """Sequences per data-parallel rank of a stage in one micro-step."""
        sequences = self.global_batch // self.accumulation
        assert sequences % stage.data_parallel_size == 0, (self, stage.name)
        return sequences // stage.data_parallel_size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What follows from a legal strategy; ranks are global, stages in the order activations flow.

    Everything is derived from the strategy when it is first asked for, so that a search may make very many.
    chosen_reduce: what runtime.reduce means where it is null (planner.build).
    """

    strategy: Strategy
    chosen_reduce: Reduce = "once"

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.strategy.parallel, self.strategy.model, self.host_size)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.layout.stages

    @cached_property
    def hosts(self) -> tuple[Host, ...]:
        return assign_hosts(self.strategy)

    @cached_property
    def host_size(self) -> int:
        """Ranks on the first host, which is the fullest."""
        return _host_size(self.strategy.cluster, self.world_size)

    @cached_property
    def batch(self) -> Batch:
        training = self.strategy.training
        sequences = training.micro_batch * largest_data_parallel_size(self.strategy.parallel)
        return Batch(
            global_batch=training.global_batch,
            micro_batch=training.micro_batch,
            accumulation=training.global_batch // sequences,
        )

    @property
    def reduce(self) -> Reduce:
        """When gradients are reduced, if there are several micro-batches."""
        return self.strategy.runtime.reduce or self.chosen_reduce

    @cached_property
    def fingerprint(self) -> str:
        return plan_fingerprint(self.strategy)

    @cached_property
    def _stages_by_rank(self) -> tuple[Stage, ...]:
        return tuple(sorted(self.stages, key=lambda stage: stage.dense.first_rank))

    @cached_property
    def world_size(self) -> int:
        return world_size(self.strategy.parallel)

    def stage_of(self, rank: int) -> Stage:
        self._check(rank)
        firsts = [stage.dense.first_rank for stage in self._stages_by_rank]
        return self._stages_by_rank[bisect_right(firsts, rank) - 1]

    def host_of(self, rank: int) -> Host:
        self._check(rank)
        return self.hosts[bisect_right([host.ranks[0] for host in self.hosts], rank) - 1]

    def _check(self, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is not in the plan's world of {self.world_size}")


def assign_hosts(strategy: Strategy) -> tuple[Host, ...]:
    """Ranks in consecutive blocks: full hosts in order, then hosts with fewer slots; no spares.

    A host with fewer slots comes last because DeepSpeed 0.19.8 (launcher/launch.py:213) takes a rank's local
    rank modulo its own host's slots, which is only right when all hosts before it are equally full.
    """
    cluster = strategy.cluster
    world = world_size(strategy.parallel)
    slots = host_slots(cluster, world)
    order = sorted(range(len(slots)), key=lambda i: -slots[i])  # stable: the given order among equals
    hosts: list[Host] = []
    first = 0
    for i in order:
        last = min(first + slots[i], world)
        if first < last:
            hosts.append(Host(name=cluster.hosts.names[i], ranks=tuple(range(first, last))))
        first = last
    return tuple(hosts)


def _host_size(cluster: Cluster, world: int) -> int:
    if cluster.gpu.is_cpu:
        return min(world, max(host_slots(cluster, world)))
    usable = cluster.hosts.count - cluster.spare_hosts
    return min(world, _largest(cluster.hosts.slots[:usable], cluster.gpus_per_host))


@lru_cache(maxsize=16)
def _largest(slots: tuple[int | None, ...], default: int) -> int:
    return max(default if num is None else num for num in slots)
