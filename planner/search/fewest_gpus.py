"""The fewest GPUs on which a model fits, for a cluster on which nothing does."""

from planner.memory.memory_model import MemoryModel
from planner.plan.memory_limit import memory_limit
from planner.plan.plan import Plan
from planner.search.search_space import Space, layouts, plans_of, space_of
from planner.strategy.changes import change_keys
from planner.strategy.hosts import Hosts
from planner.strategy.recompute import Recompute
from planner.strategy.schema import Strategy
from planner.topology.placement import world_size

MOST_GPUS = 4096  # a larger cluster would take many seconds


def fewest_gpus(strategy: Strategy) -> Plan | None:
    """The smallest plan that fits on more of the same hosts, for a strategy of which no plan fits.

    None: none fits on MOST_GPUS either.
    """
    each = strategy.cluster.gpus_per_host
    tried, hosts = sum(strategy.cluster.slots), max(1, sum(strategy.cluster.slots) // each)
    while tried < MOST_GPUS:
        hosts = min(2 * hosts, max(hosts + 1, MOST_GPUS // each))
        names = tuple(f"host-{i}" for i in range(hosts))
        larger = Hosts(names=names, slots=(None,) * hosts, are_made_up=True)
        space = space_of(change_keys(strategy, {"cluster.hosts": larger}))
        plan = _smallest(space, more_than=tried)
        if plan is not None:
            return plan
        tried = max(tried + 1, space.num_gpus)
    return None


def _smallest(space: Space, *, more_than: int) -> Plan | None:
    memory, limit = MemoryModel(), memory_limit(space.strategy)
    for parallel in sorted(layouts(space), key=world_size):
        if world_size(parallel) <= more_than:
            continue
        for plan_with in plans_of(space, parallel):
            for recompute in (Recompute(), Recompute("layer")):
                plan = plan_with(recompute, space.reduces[-1])
                if memory.peak_bytes(plan, limit) <= limit:
                    return plan
    return None
