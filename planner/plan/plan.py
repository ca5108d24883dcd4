"""What follows from a strategy: which host carries which rank, the stages, the batch, the fingerprint."""

from bisect import bisect_right
from dataclasses import dataclass, field

from planner.plan.fingerprint import plan_fingerprint
from planner.problems import StrategyError
from planner.rules.registry import find_broken_rules
from planner.strategy.schema import Strategy
from planner.topology.placement import Stage, largest_data_parallel_size, place, world_size


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that carries ranks; on it, local rank i is `ranks[i]`."""

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """micro_batch × accumulation × the largest data-parallel size of a stage = global_batch."""

    global_batch: int
    micro_batch: int
    accumulation: int

    def micro_batch_of(self, stage: Stage) -> int:
        """Whole sequences for each data-parallel rank of a stage in one micro-step."""
        sequences = self.global_batch // self.accumulation
        assert sequences % stage.data_parallel_size == 0, (self, stage.name)
        return sequences // stage.data_parallel_size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A legal strategy and what follows from it; ranks are global, stages in the order activations flow."""

    strategy: Strategy
    hosts: tuple[Host, ...]
    stages: tuple[Stage, ...]
    batch: Batch
    fingerprint: str
    _stages_by_rank: tuple[Stage, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_rank = tuple(sorted(self.stages, key=lambda stage: stage.dense.first_rank))
        object.__setattr__(self, "_stages_by_rank", by_rank)

    @property
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


def build_plan(strategy: Strategy) -> Plan:
    """The plan of a strategy; pure and deterministic.

    Raises:
        StrategyError: with every rule that the strategy breaks.
    """
    problems = tuple(find_broken_rules(strategy))
    if problems:
        raise StrategyError(problems)
    training = strategy.training
    sequences = training.micro_batch * largest_data_parallel_size(strategy.parallel)
    return Plan(
        strategy=strategy,
        hosts=assign_hosts(strategy),
        stages=place(strategy.parallel, strategy.model.num_hidden_layers),
        batch=Batch(
            global_batch=training.global_batch,
            micro_batch=training.micro_batch,
            accumulation=training.global_batch // sequences,
        ),
        fingerprint=plan_fingerprint(strategy),
    )


def assign_hosts(strategy: Strategy) -> tuple[Host, ...]:
    """Ranks in blocks over the hosts: full hosts in their order, shorter ones after them, spares left out.

    A host with fewer slots comes last because DeepSpeed 0.19.8 (launcher/launch.py:213) takes a rank's local
    rank modulo its own host's slots, which is only right when all hosts before it are equally full.
    """
    cluster = strategy.cluster
    world = world_size(strategy.parallel)
    usable = cluster.hosts.count - cluster.spare_hosts
    slots = cluster.slots[:usable]
    if cluster.gpu.is_cpu and world > sum(slots):
        slots = (-(-world // usable),) * usable  # slots bound GPUs, not processes
    order = sorted(range(usable), key=lambda i: -slots[i])  # stable: the given order among equals
    hosts: list[Host] = []
    first = 0
    for i in order:
        last = min(first + slots[i], world)
        if first < last:
            hosts.append(Host(name=cluster.hosts.names[i], ranks=tuple(range(first, last))))
        first = last
    return tuple(hosts)
