"""Every legal layout of a model on a cluster: degrees that nest, divide and fit, and cuts of the batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from planner.plan.plan import Plan
from planner.rules.legal_values import divisors
from planner.rules.registry import find_broken_rules
from planner.strategy.changes import change_keys
from planner.strategy.execution import Reduce
from planner.strategy.field_types import Section
from planner.strategy.parallel import Parallel
from planner.strategy.recompute import Recompute
from planner.strategy.schema import Strategy
from planner.topology.host_blocks import HostRuns, find_split_tp_group, host_runs
from planner.topology.placement import even_cut, largest_data_parallel_size, world_size


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a search may use: every host, spares included, and which ZeRO stages.

    hosts: how many ranks each may carry, the fullest first. sections: those that plans share.
    """

    strategy: Strategy
    num_gpus: int
    num_hosts: int
    hosts: HostRuns
    sections: dict[tuple[int, Recompute, Reduce | None], dict[str, Section]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def reduces(self) -> tuple[Reduce | None, ...]:
        """When gradients may be reduced, the preferred first; null is once, and build_plan finds that too."""
        own = self.strategy.runtime.reduce
        return (None, "every_micro_batch") if own is None else (own,)

    @property
    def zero_stages(self) -> tuple[int, ...]:
        if self.strategy.training.precision != "fp32":
            return (1, 2)
        return (2,) if self.strategy.runtime.reduce == "every_micro_batch" else (0, 1, 2)


def space_of(strategy: Strategy) -> Space:
    """The whole cluster of a strategy, nothing spare."""
    whole = change_keys(strategy, {"cluster.spare_hosts": 0})
    slots = whole.cluster.slots
    return Space(strategy=whole, num_gpus=sum(slots), num_hosts=len(slots), hosts=host_runs(slots))


def pipeline_degrees(space: Space) -> tuple[int, ...]:
    """pp to try: divisors of the layers, powers of two, and the strategy's own; ascending."""
    layers = space.strategy.model.num_hidden_layers
    powers = {2**i for i in range(layers.bit_length()) if 2**i <= layers}
    own = {space.strategy.parallel.pp} if space.strategy.parallel.pp <= layers else set()
    return tuple(sorted({*divisors(layers), *powers, *own}))


def layouts(space: Space) -> tuple[Parallel, ...]:
    """Degrees that nest, divide and fit, with ZeRO 1; layers cut evenly and as the strategy has it."""
    return tuple(_layouts(space, pipeline_degrees(space)))


def _layouts(space: Space, pps: tuple[int, ...]) -> Iterator[Parallel]:
    model, given = space.strategy.model, space.strategy.parallel
    order = given.rank_order if given.placement == "staged" else "compact"
    eps = divisors(model.num_experts) if model.num_moe_layers else (1,)
    batch_divisors = divisors(space.strategy.training.global_batch)
    for placement in ("colocated", "staged"):
        cuts = {pp: _written_cuts(space, placement, pp) for pp in pps}
        for ep in eps:
            for tp in _tps(space, placement, ep):
                for pp in pps:
                    for size in batch_divisors:
                        parallel = Parallel.model_construct(
                            placement=placement,
                            ep=ep,
                            tp=tp,
                            pp=pp,
                            dp=1,
                            layers_per_stage=None,
                            zero_stage=1,
                            rank_order=order if placement == "staged" else "document",
                        )
                        each = largest_data_parallel_size(parallel)
                        dp, rest = divmod(size, each)
                        if rest or not dp or world_size(parallel) * dp > space.num_gpus:
                            continue
                        parallel = parallel.model_copy(update={"dp": dp})
                        if find_split_tp_group(parallel, space.hosts) is not None:
                            continue
                        for cut in cuts[pp]:
                            yield parallel.model_copy(update={"layers_per_stage": cut}) if cut else parallel


def _written_cuts(space: Space, placement: str, pp: int) -> tuple[tuple[int, ...] | None, ...]:
    """As even as possible; and the strategy's own, if it has one for this pp."""
    given, layers = space.strategy.parallel, space.strategy.model.num_hidden_layers
    own = given.layers_per_stage
    if own is None or (given.placement, len(own), sum(own)) != (placement, pp, layers):
        return (None,)
    return (None,) if own == even_cut(layers, pp) else (None, own)


def _tps(space: Space, placement: str, ep: int) -> tuple[int, ...]:
    """tp nests with ep and is legal with this model; what does not depend on the other degrees."""
    model = space.strategy.model
    most = space.hosts[0][0]  # ranks of the fullest host: every TP group is on one
    if placement == "colocated":
        most = min(most, model.num_key_value_heads)
    found = []
    for tp in range(1, most + 1):
        if ep % tp and tp % ep:
            continue
        parallel = space.strategy.parallel.model_copy(
            update={
                "placement": placement,
                "ep": ep,
                "tp": tp,
                "pp": 1,
                "dp": 1,
                "layers_per_stage": None,
                "rank_order": "document",
            }
        )
        legal = space.strategy.model_copy(update={"parallel": parallel})
        broken = {p.code for p in find_broken_rules(legal) if p.path in ("parallel.tp", "parallel.ep")}
        if broken <= {"SW218"}:  # on which hosts groups lie depends on the other degrees
            found.append(tp)
    return tuple(found)


def micro_batches(space: Space, parallel: Parallel) -> tuple[int, ...]:
    """Every micro_batch with a whole accumulation."""
    return divisors(space.strategy.training.global_batch // largest_data_parallel_size(parallel))


PlanWith = Callable[[Recompute, Reduce | None], Plan]


def plans_of(space: Space, parallel: Parallel) -> Iterator[PlanWith]:
    """For each ZeRO stage and micro_batch of a layout its plan with some recompute.

    ZeRO 2 is left out where DeepSpeed is given it for ZeRO 1 too.
    """
    global_batch, widest = space.strategy.training.global_batch, largest_data_parallel_size(parallel)
    by_zero = {zero: parallel.model_copy(update={"zero_stage": zero}) for zero in space.zero_stages}
    for micro_batch in micro_batches(space, parallel):
        accumulates = global_batch > micro_batch * widest
        for zero, degrees in by_zero.items():
            if zero == 2 and accumulates and space.strategy.training.precision != "fp32":
                continue  # the same as ZeRO 1
            yield partial(_plan, space, degrees, micro_batch)


def _plan(
    space: Space, parallel: Parallel, micro_batch: int, recompute: Recompute, reduce: Reduce | None
) -> Plan:
    """The plan of legal degrees, with what a search chooses. reduce: null is once, which is to fit."""
    strategy, key = space.strategy, (micro_batch, recompute, reduce)
    if key not in space.sections:
        space.sections[key] = {
            "training": strategy.training.model_copy(update={"micro_batch": micro_batch}),
            "runtime": strategy.runtime.model_copy(update={"recompute": recompute, "reduce": reduce}),
        }
    return Plan(strategy=strategy.model_copy(update={"parallel": parallel, **space.sections[key]}))
