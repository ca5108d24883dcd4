"""Layout rules: parallel degrees, ZeRO stage, and whether the ranks fit the hosts."""

from collections.abc import Iterator
from itertools import accumulate
from math import gcd

from planner.problems import Problem
from planner.rules.legal_degrees import nearest_ep, nearest_tp
from planner.rules.legal_values import divisors, join_numbers
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size, world_size
from planner.units import plural

# More than any cluster has; rank tables are held in memory.
MAX_WORLD = 131_072


def tp_and_ep_nest(s: Strategy) -> Iterator[Problem]:
    ep, tp = s.parallel.ep, s.parallel.tp
    if ep % tp and tp % ep:
        legal = (*divisors(ep), 2 * ep, 4 * ep)
        yield Problem(
            code="SW202",
            path="parallel.tp",
            found=f"{tp} neither divides parallel.ep ({ep}) nor is divisible by it",
            expected=f"a divisor or a multiple of {ep}: {join_numbers(legal)}, …",
            fix=f"set parallel.tp to {nearest_tp(s, tp)}",
        )


def ep_divides_experts(s: Strategy) -> Iterator[Problem]:
    ep, num_experts = s.parallel.ep, s.model.num_experts
    if num_experts % ep:
        legal = divisors(num_experts)
        yield Problem(
            code="SW201",
            path="parallel.ep",
            found=f"{ep} does not divide model.num_experts ({num_experts})",
            expected=f"a divisor of {num_experts}: {join_numbers(legal)}",
            fix=f"set parallel.ep to {nearest_ep(s, ep)}",
        )


def is_ep_legal(s: Strategy) -> bool:
    """Whether ep divides the experts, as far as they are known.

    A wrong ep has its own Problem; what follows from it is not reported as well.
    """
    try:
        return s.model.num_experts % s.parallel.ep == 0
    except UnknownValueError:
        return True


def ep_needs_moe_layers(s: Strategy) -> Iterator[Problem]:
    if s.model.first_dense_layers == s.model.num_hidden_layers and s.parallel.ep > 1:
        yield Problem(
            code="SW203",
            path="parallel.ep",
            found=f"{s.parallel.ep}, but every layer is dense (model.first_dense_layers)",
            expected="1: the model has no experts",
            fix="set parallel.ep to 1, or lower model.first_dense_layers",
        )


def heads_split_over_tp(s: Strategy) -> Iterator[Problem]:
    """Colocated ranks split attention over tp; staged expert ranks hold all of its heads."""
    tp, heads, kv_heads = s.parallel.tp, s.model.num_attention_heads, s.model.num_key_value_heads
    if s.parallel.placement == "colocated" and heads % kv_heads == 0 and (heads % tp or kv_heads % tp):
        name, count = ("num_attention_heads", heads) if heads % tp else ("num_key_value_heads", kv_heads)
        legal = divisors(gcd(heads, kv_heads))
        yield Problem(
            code="SW205",
            path="parallel.tp",
            found=f"{tp} does not divide model.{name} ({count})",
            expected=f"a divisor of {heads} heads and {kv_heads} key/value heads: {join_numbers(legal)}",
            fix=f"set parallel.tp to {nearest_tp(s, tp)}, or change model.{name}",
        )


def aggregation_splits_over_tp(s: Strategy) -> Iterator[Problem]:
    tp, hidden = s.parallel.tp, s.model.hidden_size
    if s.model.aggregation == "linear" and hidden % tp:
        yield Problem(
            code="SW206",
            path="parallel.tp",
            found=f"{tp} does not divide model.hidden_size ({hidden}): tp splits the rows of the aggregation",
            expected=f"a divisor of {hidden}: {join_numbers(divisors(hidden))}",
            fix=f"set parallel.tp to {nearest_tp(s, tp)}, or model.aggregation to none",
        )


def no_tp_shard_is_empty(s: Strategy) -> Iterator[Problem]:
    """Shards of the vocabulary, and of the hidden dim in a transfer to another stage."""
    tp, model = s.parallel.tp, s.model
    parts = [("vocab_size", model.vocab_size)]
    if s.parallel.placement == "staged" or s.parallel.pp > 1:
        parts.append(("hidden_size", model.hidden_size))
    for name, size in parts:
        if size < tp:
            yield Problem(
                code="SW207",
                path="parallel.tp",
                found=f"{tp} exceeds model.{name} ({size}): some TP ranks would hold an empty shard",
                expected=f"at most {size}",
                fix=f"set parallel.tp to {nearest_tp(s, tp)}, or raise model.{name}",
            )


def dense_widths_split_over_tp(s: Strategy) -> Iterator[Problem]:
    """Widths of dense layers and shared experts: with shards of two sizes, TP ranks would lay out their
    gradients differently, sum them in another order, and differ in the last bit."""
    tp, model = s.parallel.tp, s.model
    widths = []
    if model.first_dense_layers and model.intermediate_size is not None:
        widths.append(("model.intermediate_size", model.intermediate_size))
    if model.num_shared_experts:
        shared = model.num_shared_experts * model.moe_intermediate_size
        widths.append(("model.num_shared_experts × moe_intermediate_size", shared))
    for name, width in widths if s.parallel.placement == "colocated" else ():
        if width % tp:
            yield Problem(
                code="SW208",
                path="parallel.tp",
                found=f"{tp} does not divide {name} ({width}): tp splits its columns",
                expected=f"a divisor of {width}: {join_numbers(divisors(width))}",
                fix=f"set parallel.tp to {nearest_tp(s, tp)}, or change the width",
            )


def zero_stage_is_supported(s: Strategy) -> Iterator[Problem]:
    stage = s.parallel.zero_stage
    if stage == 3:
        yield Problem(
            code="SW209",
            path="parallel.zero_stage",
            found="ZeRO 3 is not supported with experts (DeepSpeed 0.19.8 rejects its MoE layer there)",
            expected="0, 1 or 2",
            fix="set parallel.zero_stage to 2, or to 1",
        )
    elif stage > 3:
        yield Problem(
            code="SW209",
            path="parallel.zero_stage",
            found=f"ZeRO {stage} does not exist",
            expected="0, 1 or 2",
            fix="set parallel.zero_stage to 1",
        )


def zero_0_is_fp32(s: Strategy) -> Iterator[Problem]:
    if s.parallel.zero_stage == 0 and s.training.precision != "fp32":
        yield Problem(
            code="SW210",
            path="parallel.zero_stage",
            found=f"0 with training.precision {s.training.precision}: DeepSpeed does not sum gradients "
            "in fp32 there, and its gradient norm leaves out the experts",
            expected="1 or 2 with bf16 and fp8; 0 with fp32 only",
            fix="set parallel.zero_stage to 1, or to 2",
        )


def compact_is_staged(s: Strategy) -> Iterator[Problem]:
    if s.parallel.rank_order == "compact" and s.parallel.placement == "colocated":
        yield Problem(
            code="SW211",
            path="parallel.rank_order",
            found="compact applies to parallel.placement: staged only",
            expected="document",
            fix="set parallel.rank_order to document, or parallel.placement to staged",
        )


# Cluster


def spare_hosts_leave_one(s: Strategy) -> Iterator[Problem]:
    hosts, spare = s.cluster.hosts.count, s.cluster.spare_hosts
    if spare >= hosts:
        yield Problem(
            code="SW212",
            path="cluster.spare_hosts",
            found=f"{spare} of {hosts} hosts are spare: no host is left",
            expected=f"0 to {hosts - 1}",
            fix=f"set cluster.spare_hosts to {hosts - 1}, or less",
        )


def slots_within_host(s: Strategy) -> Iterator[Problem]:
    over = [
        f"{name} ({slots})"
        for name, slots in zip(s.cluster.hosts.names, s.cluster.slots, strict=True)
        if slots > s.cluster.gpus_per_host
    ]
    if over and not s.cluster.gpu.is_cpu:
        more = f" and {len(over) - 4} more" if len(over) > 4 else ""
        yield Problem(
            code="SW213",
            path="cluster.hosts",
            found=f"more slots than gpus_per_host ({s.cluster.gpus_per_host}): {', '.join(over[:4])}{more}",
            expected=f"at most {s.cluster.gpus_per_host} slots per host",
            fix=f"set cluster.gpus_per_host to {max(s.cluster.slots)}, or correct the slots",
        )


def links_are_written(s: Strategy) -> Iterator[Problem]:
    return missing_links(s, world_size(s.parallel))


def missing_links(s: Strategy, world: int) -> Iterator[Problem]:
    """The Problem of a plan of so many ranks without links."""
    if world > 1 and "links" not in s.cluster.model_fields_set:
        yield Problem(
            code="SW215",
            path="cluster.links",
            found=f"missing, and {world} ranks use links",
            expected="a section with intra_host, inter_host",
            fix="add links: {intra_host: NVLink4, inter_host: NDR}, or a bandwidth for each",
        )


def world_fits_hosts(s: Strategy) -> Iterator[Problem]:
    world, cluster, degrees = world_size(s.parallel), s.cluster, s.parallel.short_name
    if world > MAX_WORLD:
        yield Problem(
            code="SW214",
            path="parallel",
            found=f"{degrees} needs {world:,} ranks",
            expected=f"at most {MAX_WORLD:,} ranks",
            fix=_fewer_replicas(s, world, MAX_WORLD) or "set parallel.pp to 1, and lower dp, ep or tp",
        )
    elif is_ep_legal(s) and not cluster.gpu.is_cpu and cluster.spare_hosts < cluster.hosts.count:
        slots = cluster.slots
        usable = cluster.hosts.count - cluster.spare_hosts
        room = sum(slots[:usable])
        if world > room:
            enough = next((n for n, room_n in enumerate(accumulate(slots), start=1) if room_n >= world), None)
            fix = (
                _fewer_replicas(s, world, room) or _more_hosts(s, world)
                if enough is None
                else f"set cluster.spare_hosts to {len(slots) - enough}, or lower parallel.dp, pp, ep or tp"
            )
            yield Problem(
                code="SW214",
                path="parallel",
                found=f"{degrees} {s.parallel.placement} needs {world:,} ranks, but {_room(s, usable, room)}",
                expected=f"at most {plural(room, 'rank')}",
                fix=fix,
            )


def _fewer_replicas(s: Strategy, world: int, room: int) -> str | None:
    """The fix that lowers dp to a divisor of itself, which divides the batch as well; None if dp is 1."""
    dp = s.parallel.dp
    legal = [fewer for fewer in divisors(dp) if world // dp * fewer <= room]
    return f"set parallel.dp to {legal[-1]}, or lower pp, ep or tp, or add hosts" if legal else None


def _more_hosts(s: Strategy, world: int) -> str:
    """The fix that adds full hosts; the spare ones are the last, so that those of today are used then."""
    cluster = s.cluster
    if cluster.hosts.are_made_up or cluster.hosts.names == ("localhost",):
        needed = -(-world // cluster.gpus_per_host) + cluster.spare_hosts
        return f"set cluster.hosts to {needed}, or lower parallel.pp, ep or tp"
    # All slots of today do not suffice, or fewer spare hosts would be the fix.
    more = -(-(world - sum(cluster.slots)) // cluster.gpus_per_host) + cluster.spare_hosts
    hosts = f"{plural(more, 'host')} of {plural(cluster.gpus_per_host, 'slot')}"
    return f"add {hosts} to cluster.hosts, or lower parallel.pp, ep or tp"


def _room(s: Strategy, usable: int, room: int) -> str:
    spare = (
        f" ({s.cluster.spare_hosts} of {s.cluster.hosts.count} are spare)" if s.cluster.spare_hosts else ""
    )
    return f"{plural(usable, 'host')}{spare} {'have' if usable > 1 else 'has'} {plural(room, 'slot')}"


def find_widest_size(s: Strategy) -> int:
    """The largest data-parallel size of a stage; with illegal ep or tp, dp, which divides all of them."""
    if is_ep_legal(s) and not (s.parallel.ep % s.parallel.tp and s.parallel.tp % s.parallel.ep):
        return largest_data_parallel_size(s.parallel)
    return s.parallel.dp


RULES = (
    ep_divides_experts,
    tp_and_ep_nest,  # after it: an ep that changes may nest
    ep_needs_moe_layers,
    heads_split_over_tp,
    aggregation_splits_over_tp,
    no_tp_shard_is_empty,
    dense_widths_split_over_tp,
    zero_stage_is_supported,
    zero_0_is_fp32,
    compact_is_staged,
    spare_hosts_leave_one,
    slots_within_host,
    world_fits_hosts,
    links_are_written,
)
