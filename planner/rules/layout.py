"""Rules on the degrees and the cluster: which layouts are legal and fit the hosts."""

from collections.abc import Iterator
from itertools import accumulate
from math import gcd

from planner.problems import Problem
from planner.rules.legal_values import broken, divisors, listed, nearest
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size, world_size

# Tables of ranks stay in memory; more than any cluster has.
MAX_WORLD = 131_072


def tp_and_ep_nest(s: Strategy) -> Iterator[Problem]:
    ep, tp = s.parallel.ep, s.parallel.tp
    if ep % tp and tp % ep:
        legal = (*divisors(ep), 2 * ep, 4 * ep)
        yield broken(
            "parallel.tp",
            f"{tp} neither divides parallel.ep ({ep}) nor is a multiple of it",
            f"a divisor or a multiple of {ep}: {listed(legal)}, …",
            f"set parallel.tp to {nearest(legal, tp)}",
        )


def ep_divides_experts(s: Strategy) -> Iterator[Problem]:
    ep, num_experts = s.parallel.ep, s.model.num_experts
    if num_experts % ep:
        legal = divisors(num_experts)
        yield broken(
            "parallel.ep",
            f"{ep} does not divide model.num_experts ({num_experts})",
            f"a divisor of {num_experts}: {listed(legal)}",
            f"set parallel.ep to {nearest(legal, ep)}",
        )


def ep_is_legal(s: Strategy) -> bool:
    """Whether ep divides the experts, as far as they are known.

    A wrong ep has its own Problem and is no reason to blame what follows from it.
    """
    try:
        return s.model.num_experts % s.parallel.ep == 0
    except UnknownValueError:
        return True


def ep_needs_moe_layers(s: Strategy) -> Iterator[Problem]:
    if s.model.first_dense_layers == s.model.num_hidden_layers and s.parallel.ep > 1:
        yield broken(
            "parallel.ep",
            f"{s.parallel.ep}, but model.first_dense_layers leaves no layer with experts",
            "1 for a model without experts",
            "set parallel.ep to 1, or lower model.first_dense_layers",
        )


def pp_within_layers(s: Strategy) -> Iterator[Problem]:
    pp, layers = s.parallel.pp, s.model.num_hidden_layers
    if pp > layers:
        yield broken(
            "parallel.pp",
            f"{pp} stages for {layers} layers (model.num_hidden_layers)",
            f"at most {layers}: every stage holds a layer",
            f"set parallel.pp to {layers} or less",
        )


def heads_split_over_tp(s: Strategy) -> Iterator[Problem]:
    """Attention is split over tp in the colocated placement; staged expert ranks hold it whole."""
    tp, heads, kv_heads = s.parallel.tp, s.model.num_attention_heads, s.model.num_key_value_heads
    if s.parallel.placement == "colocated" and heads % kv_heads == 0 and (heads % tp or kv_heads % tp):
        name, count = ("num_attention_heads", heads) if heads % tp else ("num_key_value_heads", kv_heads)
        legal = divisors(gcd(heads, kv_heads))
        yield broken(
            "parallel.tp",
            f"{tp} does not divide model.{name} ({count})",
            f"a divisor of {heads} heads and {kv_heads} key/value heads: {listed(legal)}",
            f"set parallel.tp to {nearest(legal, tp)}, or change model.{name}",
        )


def aggregation_splits_over_tp(s: Strategy) -> Iterator[Problem]:
    tp, hidden = s.parallel.tp, s.model.hidden_size
    if s.model.aggregation == "linear" and hidden % tp:
        yield broken(
            "parallel.tp",
            f"{tp} does not divide model.hidden_size ({hidden}), whose rows the aggregation splits over tp",
            f"a divisor of {hidden}: {listed(divisors(hidden))}",
            f"set parallel.tp to {nearest(divisors(hidden), tp)}, or model.aggregation to none",
        )


def every_partner_has_a_part(s: Strategy) -> Iterator[Problem]:
    """Of the vocabulary, and of the columns that a partner hands over to another stage."""
    tp, model = s.parallel.tp, s.model
    parts = [("vocab_size", model.vocab_size)]
    if s.parallel.placement == "staged" or s.parallel.pp > 1:
        parts.append(("hidden_size", model.hidden_size))
    for name, size in parts:
        if size < tp:
            yield broken(
                "parallel.tp",
                f"{tp} is more than model.{name} ({size}): some ranks would have nothing of it",
                f"at most {size}",
                f"lower parallel.tp, or raise model.{name}",
            )


def dense_widths_split_over_tp(s: Strategy) -> Iterator[Problem]:
    """Widths of dense layers and shared experts: with shares of two sizes, TP partners would lay out their
    gradients differently, sum them in another order, and drift apart by the last bit."""
    tp, model = s.parallel.tp, s.model
    widths = []
    if model.first_dense_layers and model.intermediate_size is not None:
        widths.append(("model.intermediate_size", model.intermediate_size))
    if model.num_shared_experts:
        shared = model.num_shared_experts * model.moe_intermediate_size
        widths.append(("model.num_shared_experts × moe_intermediate_size", shared))
    for name, width in widths if s.parallel.placement == "colocated" else ():
        if width % tp:
            yield broken(
                "parallel.tp",
                f"{tp} does not divide {name} ({width}), whose columns it splits",
                f"a divisor of {width}: {listed(divisors(width))}",
                f"set parallel.tp to {nearest(divisors(width), tp)}, or change the width",
            )


def zero_stage_is_supported(s: Strategy) -> Iterator[Problem]:
    stage = s.parallel.zero_stage
    if stage == 3:
        yield broken(
            "parallel.zero_stage",
            "ZeRO 3 is not supported yet with experts (DeepSpeed 0.19.8 refuses its MoE layer there)",
            "0, 1 or 2",
            "set parallel.zero_stage to 2",
        )
    elif stage > 3:
        yield broken(
            "parallel.zero_stage", f"there is no ZeRO {stage}", "0, 1 or 2", "set parallel.zero_stage to 1"
        )


def zero_0_is_fp32(s: Strategy) -> Iterator[Problem]:
    if s.parallel.zero_stage == 0 and s.training.precision != "fp32":
        yield broken(
            "parallel.zero_stage",
            f"0 with training.precision {s.training.precision}: DeepSpeed keeps no fp32 sum of "
            "gradients there, and its norm leaves the experts out",
            "1 or 2 with bf16 and fp8; 0 only with fp32",
            "set parallel.zero_stage to 1 or 2",
        )


def compact_is_staged(s: Strategy) -> Iterator[Problem]:
    if s.parallel.rank_order == "compact" and s.parallel.placement == "colocated":
        yield broken(
            "parallel.rank_order",
            "compact, but in the colocated placement no stage stands before the experts",
            "document",
            "remove parallel.rank_order, or set parallel.placement to staged",
        )


# Cluster


def spare_hosts_leave_one(s: Strategy) -> Iterator[Problem]:
    hosts, spare = s.cluster.hosts.count, s.cluster.spare_hosts
    if spare >= hosts:
        yield broken(
            "cluster.spare_hosts",
            f"{spare} of {hosts} hosts are spare, so none is left",
            f"0 to {hosts - 1}",
            "lower cluster.spare_hosts",
        )


def slots_within_host(s: Strategy) -> Iterator[Problem]:
    over = [
        f"{name} ({slots})"
        for name, slots in zip(s.cluster.hosts.names, s.cluster.slots, strict=True)
        if slots > s.cluster.gpus_per_host
    ]
    if over and not s.cluster.gpu.is_cpu:
        more = f" and {len(over) - 4} more" if len(over) > 4 else ""
        yield broken(
            "cluster.hosts",
            f"more slots than gpus_per_host ({s.cluster.gpus_per_host}): {', '.join(over[:4])}{more}",
            f"at most {s.cluster.gpus_per_host} slots a host",
            "correct the slots, or cluster.gpus_per_host",
        )


def world_fits_hosts(s: Strategy) -> Iterator[Problem]:
    world, cluster, degrees = world_size(s.parallel), s.cluster, s.parallel.short_name
    if world > MAX_WORLD:
        yield broken(
            "parallel",
            f"{degrees} needs {world:,} ranks",
            f"at most {MAX_WORLD:,} ranks",
            "lower parallel.dp, pp, ep or tp",
        )
    elif ep_is_legal(s) and not cluster.gpu.is_cpu and cluster.spare_hosts < cluster.hosts.count:
        slots = cluster.slots
        usable = cluster.hosts.count - cluster.spare_hosts
        room = sum(slots[:usable])
        if world > room:
            enough = next((n for n, room_n in enumerate(accumulate(slots), start=1) if room_n >= world), None)
            fix = (
                "lower parallel.dp, pp, ep or tp, or add hosts"
                if enough is None
                else f"set cluster.spare_hosts to {len(slots) - enough}, or lower parallel.dp, pp, ep or tp"
            )
            yield broken(
                "parallel",
                f"{degrees} {s.parallel.placement} needs {world} ranks, but {_room(s, usable, room)}",
                f"at most {room} ranks",
                fix,
            )


def _room(s: Strategy, usable: int, room: int) -> str:
    spare = (
        f" ({s.cluster.spare_hosts} of {s.cluster.hosts.count} are spare)" if s.cluster.spare_hosts else ""
    )
    return f"{usable} host{'s' if usable > 1 else ''}{spare} {'carry' if usable > 1 else 'carries'} {room}"


def widest_size(s: Strategy) -> int:
    """The largest data-parallel size; while ep and tp are wrong themselves, dp, which divides any of them."""
    if ep_is_legal(s) and not (s.parallel.ep % s.parallel.tp and s.parallel.tp % s.parallel.ep):
        return largest_data_parallel_size(s.parallel)
    return s.parallel.dp


RULES = (
    tp_and_ep_nest,
    ep_divides_experts,
    ep_needs_moe_layers,
    pp_within_layers,
    heads_split_over_tp,
    aggregation_splits_over_tp,
    every_partner_has_a_part,
    dense_widths_split_over_tp,
    zero_stage_is_supported,
    zero_0_is_fp32,
    compact_is_staged,
    spare_hosts_leave_one,
    slots_within_host,
    world_fits_hosts,
)
