"""Host rules: every TP group lies on one host."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.layout import MAX_WORLD, is_ep_legal
from planner.rules.legal_degrees import nearest_tp
from planner.rules.legal_values import divisors
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy
from planner.topology.host_blocks import find_split_tp_group, host_runs, host_slots
from planner.topology.placement import largest_data_parallel_size, world_size


def tp_groups_are_within_hosts(s: Strategy) -> Iterator[Problem]:
    """TP partners exchange the activations of every layer, for which they need the links inside a host."""
    p, cluster = s.parallel, s.cluster
    world = world_size(p)
    if p.tp == 1 or world > MAX_WORLD or cluster.spare_hosts >= cluster.hosts.count or not is_ep_legal(s):
        return
    slots = host_slots(cluster, world)
    if (p.ep % p.tp and p.tp % p.ep) or world > sum(slots):
        return  # each a Problem of its own
    group = find_split_tp_group(p, host_runs(slots))
    if group is not None:
        yield Problem(
            code="SW218",
            path="parallel.tp",
            found=f"{p.tp}: the TP group of ranks {group[0]} to {group[-1]} would be on several hosts (of "
            f"{max(slots)} ranks)",
            expected="every TP group on one host",
            fix=_write_smaller_tp(s),
        )


def _write_smaller_tp(s: Strategy) -> str:
    """The largest that is legal on these hosts, if possible one that leaves a whole accumulation."""
    smaller = [
        parallel
        for tp in reversed(divisors(s.parallel.tp))
        if (parallel := s.parallel.model_copy(update={"tp": tp}))
        and not (parallel.ep % tp and tp % parallel.ep)
        and nearest_tp(s, tp) == tp
        and find_split_tp_group(parallel, host_runs(host_slots(s.cluster, world_size(parallel)))) is None
    ]
    try:
        micro_batch, global_batch = s.training.micro_batch, s.training.global_batch
    except UnknownValueError:
        return f"set parallel.tp to {smaller[0].tp}"
    each = [micro_batch * largest_data_parallel_size(parallel) for parallel in smaller]
    for parallel, sequences in zip(smaller, each, strict=True):
        if global_batch % sequences == 0:
            return f"set parallel.tp to {parallel.tp}"
    return f"set parallel.tp to {smaller[0].tp} and training.global_batch to a multiple of {each[0]}"


RULES = (tp_groups_are_within_hosts,)
