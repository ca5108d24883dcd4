"""Load balance of a plan over its GPUs, and the compatibility checks that a plan must pass before it runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from planner.counts.module_flops import stage_modules
from planner.memory.rank_memory import rank_memory
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction
from planner.topology.placement import Stage
from planner.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class Balance:
    """A quantity over all ranks. score: mean / maximum, 1 where all carry the same."""

    mean: float
    least: float
    most: float
    variation: float  # standard deviation / mean

    @property
    def score(self) -> float:
        return self.mean / self.most if self.most else 1.0


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """One GPU of a stage: matmul FLOPs per step, and bytes at its peak; its fullest GPU's."""

    name: str
    num_ranks: int
    flops: float
    flops_share: float  # of all GPUs' together
    memory_bytes: float
    memory_headroom: float  # share of what a GPU may take that stays free
    utilization: float


@dataclass(frozen=True, kw_only=True)
class LoadBalance:
    """Compute and memory over all GPUs; headrooms are shares: unused time, and memory of the fullest GPU.

    tokens: mean / maximum of expert tokens over ranks that the prediction assumes.
    """

    stages: tuple[StageLoad, ...]
    compute: Balance
    memory: Balance
    tokens: float
    compute_headroom: float
    memory_headroom: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One compatibility check: what was asked, what is there, in a line."""

    name: str
    passes: bool
    detail: str


def load_balance(plan: Plan, prediction: Prediction) -> LoadBalance:
    """How evenly the GPUs of a plan are loaded, tokens reaching experts evenly."""
    memory, limit = memory_balance(plan), memory_limit(plan.strategy)
    flops = [rank_flops(plan, stage) for stage in plan.stages]
    total = sum(f * len(stage.ranks) for f, stage in zip(flops, plan.stages, strict=True))
    stages = []
    for stage, each, predicted in zip(plan.stages, flops, prediction.stages, strict=True):
        most = max(value for value, _ in _stage_memory(plan, stage))
        stages.append(
            StageLoad(
                name=stage.name,
                num_ranks=len(stage.ranks),
                flops=each,
                flops_share=each / total if total else 0.0,
                memory_bytes=most,
                memory_headroom=1 - most / limit,
                utilization=predicted.utilization,
            )
        )
    return LoadBalance(
        stages=tuple(stages),
        compute=compute_balance(plan),
        memory=memory,
        tokens=prediction.balance,
        compute_headroom=1 - prediction.utilization,
        memory_headroom=1 - memory.most / limit,
    )


def compute_balance(plan: Plan) -> Balance:
    """matmul FLOPs per step over all ranks; TP partners count as the first of them, which has the most."""
    return _balance([(rank_flops(plan, stage), len(stage.ranks)) for stage in plan.stages])


def memory_balance(plan: Plan) -> Balance:
    """Peak bytes over all ranks. Data-parallel peers between the first and the last count as the first."""
    return _balance([pair for stage in plan.stages for pair in _stage_memory(plan, stage)])


def rank_flops(plan: Plan, stage: Stage) -> float:
    """matmul FLOPs of a stage's rank in one step: forward, backward, recomputed."""
    work = stage_modules(plan, stage)
    each = sum(w.flops_forward + w.flops_backward + w.flops_recompute for w in work)
    return float(plan.batch.accumulation * each)


def _stage_memory(plan: Plan, stage: Stage) -> list[tuple[float, int]]:
    """Peak bytes and how many ranks have them, by place in the TP group."""
    data, tp = stage.data_parallel_size, stage.dense.size("tp")
    found: list[tuple[float, int]] = []
    for place in range(tp):
        first = stage.dense.first_rank + place
        found.append((float(rank_memory(plan, first).peak_bytes), max(1, data - 1)))
        if data > 1:
            found.append((float(rank_memory(plan, first + (data - 1) * tp).peak_bytes), 1))
    return found


def _balance(values: Sequence[tuple[float, int]]) -> Balance:
    count = sum(n for _, n in values)
    mean = sum(v * n for v, n in values) / count
    variance = sum(n * (v - mean) ** 2 for v, n in values) / count
    numbers = [v for v, _ in values]
    variation = sqrt(variance) / mean if mean else 0.0
    return Balance(mean=mean, least=min(numbers), most=max(numbers), variation=variation)


def compatibility_checks(plan: Plan, prediction: Prediction, load: LoadBalance) -> tuple[Check, ...]:
    """GPU count, expert distribution, memory, compute utilization, load balancing, communication."""
    return tuple(_checks(plan, prediction, load))


def _checks(plan: Plan, prediction: Prediction, load: LoadBalance) -> Iterator[Check]:
    s = plan.strategy
    world, slots = plan.world_size, s.cluster.slots
    spare = f", {s.cluster.spare_hosts} spare hosts" if s.cluster.spare_hosts else ""
    if s.cluster.gpu.is_cpu:
        yield Check(name="GPU count", passes=True, detail=f"{world} processes on CPUs need no GPU")
    else:
        detail = f"{world} needed, {sum(slots)} available{spare}"
        yield Check(name="GPU count", passes=world <= sum(slots), detail=detail)
    num, ep = s.model.num_experts, s.parallel.ep
    yield Check(
        name="expert distribution",
        passes=num % ep == 0,
        detail=f"{num} experts per layer over ep {ep}: {num / ep:g} on each rank; "
        f"tokens are assumed to reach them evenly (training.balance: {s.training.balance})",
    )
    limit = memory_limit(plan.strategy)
    yield Check(
        name="memory requirements",
        passes=load.memory.most <= limit,
        detail=f"{format_bytes(load.memory.most)} on the fullest rank at its peak, "
        f"{describe_memory_limit(s)} allowed",
    )
    least, limits = min(stage.utilization for stage in load.stages), s.limits
    wanted = limits.utilization_min
    yield Check(
        name="compute utilization",
        passes=wanted is None or least >= wanted,
        detail=f"{least:.1%} in the least busy stage, {load.compute_headroom:.1%} of all time unused; "
        f"{_asked('at least', wanted, 'utilization_min')}",
    )
    score = min(load.tokens, load.compute.score)
    wanted = limits.balance_min
    yield Check(
        name="load balancing",
        passes=wanted is None or score >= wanted,
        detail=f"compute {load.compute.score:.1%} (mean / maximum over ranks), expert tokens "
        f"{load.tokens:.1%} ({prediction.balance_is}), memory {load.memory.score:.1%}; "
        f"{_asked('at least', wanted, 'balance_min', ' for compute and tokens')}",
    )
    share = max(stage.communication_share for stage in prediction.stages)
    wanted = limits.communication_share_max
    yield Check(
        name="communication share",
        passes=wanted is None or share <= wanted,
        detail=f"{share:.1%} in the stage that waits most; "
        f"{_asked('at most', wanted, 'communication_share_max')}",
    )


def _asked(bound: str, wanted: float | None, key: str, of: str = "") -> str:
    return (
        f"no limit written (limits.{key})"
        if wanted is None
        else f"{bound} {wanted:.1%} required{of} (limits.{key})"
    )
