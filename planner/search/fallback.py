"""Fallback: other shapes of a strategy, and layouts for the hosts that remain after a loss."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.build import build_plan
from planner.hardware.catalog import Device, device_of
from planner.memory.fit import fits, fullest_rank
from planner.memory.rank_memory import RankMemory
from planner.plan.memory_limit import describe_memory_limit
from planner.plan.plan import Plan
from planner.prediction.predict import predict
from planner.problems import Problem, StrategyError
from planner.rules.legal_values import divisors
from planner.search.continuation import Continuation, continuations
from planner.search.search import SearchRow, search
from planner.search.search_space import layouts, space_of
from planner.search.trainable import missing_of, trainable_first, untrainable_keys
from planner.strategy.changes import change_keys, change_parallel
from planner.strategy.hosts import Hosts
from planner.strategy.parallel import Parallel
from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size, world_size
from planner.units import format_bytes, plural

PLACEMENTS = ("colocated", "staged")


@dataclass(frozen=True, kw_only=True)
class ScalingOption:
    """One question in one placement: what it needs, and the plan or why there is none.

    gpus: what the degrees need, there or not. spares: what is then left of the cluster, below 0 what lacks.
    micro_batch: the strategy's, or the nearest that is legal and fits where that does not. memory: of the
    fullest rank. why_not: None for a plan that is legal and fits the memory. untrainable: keys whose values
    this version does not train yet.
    """

    question: str
    parallel: Parallel
    gpus: int
    spares: int
    written_micro_batch: int
    micro_batch: int
    untrainable: tuple[str, ...]
    plan: Plan | None
    memory: RankMemory | None
    step_s: float | None
    why_not: str | None

    @property
    def is_micro_batch_changed(self) -> bool:
        return self.micro_batch != self.written_micro_batch

    @property
    def is_possible(self) -> bool:
        return self.why_not is None

    @property
    def tokens_per_s(self) -> float | None:
        if self.plan is None or self.step_s is None:
            return None
        training = self.plan.strategy.training
        return training.global_batch * training.seq_length / self.step_s


def scaling_options(strategy: Strategy, device: Device | None = None) -> tuple[ScalingOption, ...]:
    """As it is, twice the batch, twice the copies, twice the experts; half of ep, twice of tp, twice of pp.

    For the reference these are its document's scaling questions and fallbacks; each in both placements, on
    all hosts, spare ones included.
    """
    return tuple(
        _option(question, placed(changed, placement), device)
        for question, changed in _questions(strategy)
        for placement in PLACEMENTS
    )


def _questions(strategy: Strategy) -> Iterator[tuple[str, Strategy]]:
    parallel, model, training = strategy.parallel, strategy.model, strategy.training
    ep, tp, pp = parallel.ep, parallel.tp, parallel.pp

    def degrees(**changes: int) -> Strategy:
        return change_parallel(strategy, changes)

    yield "as it is", strategy
    batch = 2 * training.global_batch
    yield f"batch {batch}", change_keys(strategy, {"training.global_batch": batch})
    yield f"DP{2 * parallel.dp}", degrees(dp=2 * parallel.dp)
    experts = 2 * model.num_experts
    more = change_keys(strategy, {"model.num_experts": experts})
    yield f"{experts} experts, {_each(experts // (2 * ep))}", change_keys(more, {"parallel.ep": 2 * ep})
    yield f"{experts} experts, {_each(experts // ep)}", more
    if ep % 2 == 0:
        yield f"EP{ep // 2}_TP{tp}", degrees(ep=ep // 2)
    yield f"EP{ep}_TP{2 * tp}", degrees(tp=2 * tp)
    yield f"EP{ep}_TP{tp}_PP{2 * pp}", degrees(pp=2 * pp)


def _each(num_experts: int) -> str:
    return f"{num_experts} per rank"


def placed(strategy: Strategy, placement: str) -> Strategy:
    """The same in another placement; compact rank order exists in the staged one only."""
    changes: dict[str, object] = {"placement": placement}
    if placement == "colocated":
        changes["rank_order"] = "document"
    return change_parallel(strategy, changes)


def _option(question: str, strategy: Strategy, device: Device | None) -> ScalingOption:
    strategy = change_keys(strategy, {"cluster.spare_hosts": 0})
    gpus = world_size(strategy.parallel)
    plan, memory, why_not = _first_that_runs(strategy)
    used = strategy if plan is None else plan.strategy
    step_s = None if plan is None else predict(plan, device or device_of(strategy.cluster.gpu)).step_s
    return ScalingOption(
        question=question,
        parallel=strategy.parallel,
        gpus=gpus,
        spares=sum(strategy.cluster.slots) - gpus,
        written_micro_batch=strategy.training.micro_batch,
        micro_batch=used.training.micro_batch,
        untrainable=untrainable_keys(used),
        plan=plan,
        memory=memory,
        step_s=step_s,
        why_not=why_not,
    )


def _first_that_runs(strategy: Strategy) -> tuple[Plan | None, RankMemory | None, str | None]:
    """With the first micro_batch that is legal and fits; if there is none, what the strategy's own lacks."""
    first: tuple[Plan | None, RankMemory | None, str | None] | None = None
    for micro_batch in (strategy.training.micro_batch, *_other_micro_batches(strategy)):
        changed = change_keys(strategy, {"training.micro_batch": micro_batch})
        plan, memory, why_not = None, None, None
        try:
            plan = build_plan(changed)
        except StrategyError as error:
            why_not = "; ".join(f"{problem.path}: {problem.found}" for problem in error.problems)
        if plan is not None:
            memory = fullest_rank(plan)
            if fits(plan):
                return plan, memory, None
            why_not = f"memory: {format_bytes(memory.peak_bytes)} of {describe_memory_limit(plan.strategy)}"
        first = first or (plan, memory, why_not)
    assert first is not None
    return first


def _other_micro_batches(strategy: Strategy) -> tuple[int, ...]:
    """Those with a whole accumulation, smaller ones from the largest, then larger ones from the smallest."""
    training, parallel = strategy.training, strategy.parallel
    if parallel.ep % parallel.tp and parallel.tp % parallel.ep:
        return ()
    sequences, rest = divmod(training.global_batch, largest_data_parallel_size(parallel))
    legal = () if rest else divisors(sequences)
    smaller = sorted((each for each in legal if each < training.micro_batch), reverse=True)
    return (*smaller, *sorted(each for each in legal if each > training.micro_batch))


# After a loss


@dataclass(frozen=True, kw_only=True)
class AfterLoss:
    """What remains of a cluster, and the best plan of each layout on it: those that this version trains
    first, each kind from the fastest on.

    given: before the loss. as_written: whether its own layout continues, for each place of the loss. kept:
    how a host that lost some of its GPUs is used: "last", with fewer ranks, or "dropped"; None: there is no
    such host.
    """

    given: Strategy
    strategy: Strategy
    as_written: tuple[Continuation, ...]
    lost: str
    kept: str | None
    rows: tuple[SearchRow, ...]

    @property
    def num_hosts(self) -> int:
        return self.strategy.cluster.hosts.count

    @property
    def num_gpus(self) -> int:
        return sum(self.strategy.cluster.slots)


def after_loss(
    strategy: Strategy, *, lost_hosts: int = 0, lost_gpus: int = 0, device: Device | None = None
) -> AfterLoss:
    """The legal layouts on what a loss leaves; each keeps the global batch, by accumulation.

    The layouts assume hosts lost from the end of the list, GPUs from as few hosts as can have held them.
    Spare hosts take part.

    Raises:
        StrategyError: if no GPU remains.
    """
    assert (lost_hosts > 0) != (lost_gpus > 0), "one kind of loss at a time"
    lost = plural(lost_hosts, "host") if lost_hosts else plural(lost_gpus, "GPU")
    remains = list(_remains(strategy, lost_hosts, lost_gpus))
    if not remains:
        cluster = strategy.cluster
        size = f"{plural(cluster.hosts.count, 'host')} with {plural(sum(cluster.slots), 'GPU')}"
        problem = Problem(
            code="SW321",
            found=f"no GPU remains after the loss of {lost}: the cluster has {size}",
            expected="a loss that leaves at least one GPU",
            fix="lower the number",
        )
        raise StrategyError([problem])
    # Equal: rather without the host that is already half broken.
    kept, left = max(reversed(remains), key=lambda each: _most_ranks(each[1]))
    return AfterLoss(
        given=strategy,
        strategy=left,
        as_written=continuations(build_plan(strategy), lost_hosts=lost_hosts, lost_gpus=lost_gpus),
        lost=lost,
        kept=kept,
        rows=_best_of_layouts(left, device),
    )


def _most_ranks(strategy: Strategy) -> int:
    return max((world_size(parallel) for parallel in layouts(space_of(strategy))), default=0)


def _best_of_layouts(strategy: Strategy, device: Device | None) -> tuple[SearchRow, ...]:
    """A layout's fastest plan that this version trains; where it has none, its fastest."""
    best: dict[tuple[str, str], SearchRow] = {}
    rows = search(strategy, device).rows
    for row in trainable_first(rows, missing_of(rows)):
        best.setdefault((row.strategy.parallel.placement, row.strategy.parallel.short_name), row)
    return tuple(best.values())


def _remains(strategy: Strategy, lost_hosts: int, lost_gpus: int) -> Iterator[tuple[str | None, Strategy]]:
    """The clusters that a loss leaves: a host with fewer slots comes last, or is dropped."""
    names, slots = list(strategy.cluster.hosts.names), list(strategy.cluster.slots)
    if lost_hosts:
        names, slots = names[:-lost_hosts], slots[:-lost_hosts]
    while slots and lost_gpus >= slots[-1]:
        lost_gpus -= slots.pop()
        names.pop()
    if slots and not lost_gpus:
        yield None, _on(strategy, names, slots)
    elif slots:
        yield "last", _on(strategy, names, [*slots[:-1], slots[-1] - lost_gpus])
        if len(slots) > 1:
            yield "dropped", _on(strategy, names[:-1], slots[:-1])


def _on(strategy: Strategy, names: list[str], slots: list[int]) -> Strategy:
    hosts = Hosts(names=tuple(names), slots=tuple(slots), are_made_up=strategy.cluster.hosts.are_made_up)
    return change_keys(strategy, {"cluster.hosts": hosts, "cluster.spare_hosts": 0})
