"""Every legal layout of a model on a cluster: degrees that nest, divide and fit, and cuts of the batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from planner.plan.plan import Plan
from planner.rules.legal_values import divisors
from planner.rules.registry import find_broken_rules
from planner.strategy.changes import change_keys
from planner.strategy.field_types import Section
from planner.strategy.recompute import Recompute
from planner.strategy.schema import Parallel, Strategy
from planner.topology.placement import largest_data_parallel_size, world_size


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a search may use: every host, spares included, and which ZeRO stages.

    fullest_host: the most ranks that one of the hosts may carry. sections: those that plans share.
    """

    strategy: Strategy
    num_gpus: int
    num_hosts: int
    fullest_host: int
    sections: dict[tuple[int, Recompute], dict[str, Section]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def zero_stages(self) -> tuple[int, ...]:
        return (0, 1, 2) if self.strategy.training.precision == "fp32" else (1, 2)


def space_of(strategy: Strategy) -> Space:
    """The whole cluster of a strategy, nothing spare."""
    whole = change_keys(strategy, {"cluster.spare_hosts": 0})
    slots = whole.cluster.slots
    return Space(strategy=whole, num_gpus=sum(slots), num_hosts=len(slots), fullest_host=max(slots))


def pipeline_degrees(space: Space) -> tuple[int, ...]:
    """pp to try: divisors of the layers, powers of two, and the strategy's own; ascending."""
    layers = space.strategy.model.num_hidden_layers
    powers = {2**i for i in range(layers.bit_length()) if 2**i <= layers}
    own = {space.strategy.parallel.pp} if space.strategy.parallel.pp <= layers else set()
    return tuple(sorted({*divisors(layers), *powers, *own}))


def layouts(space: Space) -> tuple[Parallel, ...]:
    """Degrees that nest, divide and fit, with ZeRO 1."""
    return tuple(_layouts(space, pipeline_degrees(space)))


def _layouts(space: Space, pps: tuple[int, ...]) -> Iterator[Parallel]:
    model, given = space.strategy.model, space.strategy.parallel
    order = given.rank_order if given.placement == "staged" else "compact"
    eps = divisors(model.num_experts) if model.num_moe_layers else (1,)
    batch_divisors = divisors(space.strategy.training.global_batch)
    for placement in ("colocated", "staged"):
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
                            zero_stage=1,
                            rank_order=order if placement == "staged" else "document",
                        )
                        each = largest_data_parallel_size(parallel)
                        dp, rest = divmod(size, each)
                        if rest or not dp or world_size(parallel) * dp > space.num_gpus:
                            continue
                        yield parallel.model_copy(update={"dp": dp})


def _tps(space: Space, placement: str, ep: int) -> tuple[int, ...]:
    """tp nests with ep and is legal with this model; what does not depend on the other degrees."""
    model = space.strategy.model
    most = model.num_key_value_heads if placement == "colocated" else space.fullest_host
    found = []
    for tp in range(1, most + 1):
        if ep % tp and tp % ep:
            continue
        parallel = space.strategy.parallel.model_copy(
            update={"placement": placement, "ep": ep, "tp": tp, "pp": 1, "dp": 1, "rank_order": "document"}
        )
        legal = space.strategy.model_copy(update={"parallel": parallel})
        if all(problem.path not in ("parallel.tp", "parallel.ep") for problem in find_broken_rules(legal)):
            found.append(tp)
    return tuple(found)


def micro_batches(space: Space, parallel: Parallel) -> tuple[int, ...]:
    """Every micro_batch with a whole accumulation."""
    return divisors(space.strategy.training.global_batch // largest_data_parallel_size(parallel))


PlanWith = Callable[[Recompute], Plan]


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


def _plan(space: Space, parallel: Parallel, micro_batch: int, recompute: Recompute) -> Plan:
    """The plan of legal degrees, with what a search chooses."""
    strategy, key = space.strategy, (micro_batch, recompute)
    if key not in space.sections:
        space.sections[key] = {
            "training": strategy.training.model_copy(update={"micro_batch": micro_batch}),
            "runtime": strategy.runtime.model_copy(update={"recompute": recompute}),
        }
    return Plan(strategy=strategy.model_copy(update={"parallel": parallel, **space.sections[key]}))
