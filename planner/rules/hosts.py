"""Host rules: every TP group lies on one host, and EP groups have as many ranks on each for two levels."""

from collections.abc import Iterator, Sequence

from planner.problems import Problem
from planner.rules.layout import MAX_WORLD, is_ep_legal
from planner.rules.legal_degrees import nearest_tp
from planner.rules.legal_values import divisors
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy
from planner.topology.host_blocks import by_host, find_split_tp_group, host_runs, host_slots
from planner.topology.placement import largest_data_parallel_size, place, world_size


def _slots(s: Strategy) -> Sequence[int] | None:
    """Ranks of each host; None where there are none to place, which is a Problem of its own."""
    p, cluster = s.parallel, s.cluster
    world = world_size(p)
    if world > MAX_WORLD or cluster.spare_hosts >= cluster.hosts.count or not is_ep_legal(s):
        return None
    slots = host_slots(cluster, world)
    return None if (p.ep % p.tp and p.tp % p.ep) or world > sum(slots) else slots


def tp_groups_are_within_hosts(s: Strategy) -> Iterator[Problem]:
    """TP partners exchange the activations of every layer, for which they need the links inside a host."""
    p = s.parallel
    slots = _slots(s) if p.tp > 1 else None
    if slots is None:
        return
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


def hierarchical_groups_are_even(s: Strategy) -> Iterator[Problem]:
    """Each rank of an EP group passes rows on to the rank with its place on every other host."""
    p = s.parallel
    slots = _slots(s) if s.runtime.all_to_all == "hierarchical" else None
    if slots is None:
        return
    slots = sorted(slots, reverse=True)
    # Where expert ranks are does not depend on how layers are cut: a layer a stage serves.
    for stage in place(p.model_copy(update={"layers_per_stage": None}), p.pp):
        for ranks in stage.expert.groups("ep") if stage.expert is not None else ():
            sizes = [len(members) for members in by_host(ranks, slots)]
            if len(set(sizes)) > 1:
                yield Problem(
                    code="SW220",
                    path="runtime.all_to_all",
                    found=f"hierarchical, but the EP group of ranks {ranks[0]} to {ranks[-1]} has "
                    f"{max(sizes)} of them on one host and {min(sizes)} on another",
                    expected="as many ranks of every EP group on each of its hosts, or flat",
                    fix="set runtime.all_to_all to flat",
                )
                return


RULES = (tp_groups_are_within_hosts, hierarchical_groups_are_even)
