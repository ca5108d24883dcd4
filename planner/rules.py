"""What a strategy must keep beyond the form of its keys: one small function for each rule."""

from collections.abc import Iterator
from math import gcd, isqrt

from planner.partial import UnknownValueError
from planner.placement import largest_data_parallel_size, world_size
from planner.problems import Problem
from planner.strategy import Strategy

# Tables of ranks stay in memory; more than any cluster has.
MAX_WORLD = 131_072


def broken_rules(strategy: Strategy) -> Iterator[Problem]:
    """The Problems of every rule that the strategy breaks; a rule that reads a faulty key is left out."""
    for rule in RULES:
        try:
            yield from rule(strategy)
        except UnknownValueError:
            continue  # the key that it reads has its own Problem already


def _broken(path: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(path=path, line=None, found=found, expected=expected, fix=fix)


def divisors(number: int) -> tuple[int, ...]:
    """Every divisor of a positive number, ascending."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def _listed(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(str(number) for number in numbers[:16])
    return f"{shown}, …" if len(numbers) > 16 else shown


def _nearest(numbers: tuple[int, ...], wanted: int) -> int:
    return min(numbers, key=lambda number: (abs(number - wanted), -number))


# Degrees


def tp_and_ep_nest(s: Strategy) -> Iterator[Problem]:
    ep, tp = s.parallel.ep, s.parallel.tp
    if ep % tp and tp % ep:
        legal = tuple(d for d in range(1, 2 * max(ep, tp) + 1) if ep % d == 0 or d % ep == 0)[:64]
        yield _broken(
            "parallel.tp",
            f"{tp} neither divides parallel.ep ({ep}) nor is a multiple of it",
            f"a divisor or a multiple of {ep}: {_listed(legal)}",
            f"set parallel.tp to {_nearest(legal, tp)}",
        )


def ep_divides_experts(s: Strategy) -> Iterator[Problem]:
    ep, num_experts = s.parallel.ep, s.model.num_experts
    if num_experts % ep:
        legal = divisors(num_experts)
        yield _broken(
            "parallel.ep",
            f"{ep} does not divide model.num_experts ({num_experts})",
            f"a divisor of {num_experts}: {_listed(legal)}",
            f"set parallel.ep to {_nearest(legal, ep)}",
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
        yield _broken(
            "parallel.ep",
            f"{s.parallel.ep}, but model.first_dense_layers leaves no layer with experts",
            "1 for a model without experts",
            "set parallel.ep to 1, or lower model.first_dense_layers",
        )


def pp_within_layers(s: Strategy) -> Iterator[Problem]:
    pp, layers = s.parallel.pp, s.model.num_hidden_layers
    if pp > layers:
        yield _broken(
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
        yield _broken(
            "parallel.tp",
            f"{tp} does not divide model.{name} ({count})",
            f"a divisor of {heads} heads and {kv_heads} key/value heads: {_listed(legal)}",
            f"set parallel.tp to {_nearest(legal, tp)}, or change model.{name}",
        )


def aggregation_splits_over_tp(s: Strategy) -> Iterator[Problem]:
    tp, hidden = s.parallel.tp, s.model.hidden_size
    if s.model.aggregation == "linear" and hidden % tp:
        yield _broken(
            "parallel.tp",
            f"{tp} does not divide model.hidden_size ({hidden}), whose rows the aggregation splits over tp",
            f"a divisor of {hidden}: {_listed(divisors(hidden))}",
            f"set parallel.tp to {_nearest(divisors(hidden), tp)}, or model.aggregation to none",
        )


def zero_stage_is_supported(s: Strategy) -> Iterator[Problem]:
    stage = s.parallel.zero_stage
    if stage == 3:
        yield _broken(
            "parallel.zero_stage",
            "ZeRO 3 is not supported yet with experts (DeepSpeed 0.19.8 refuses its MoE layer there)",
            "0, 1 or 2",
            "set parallel.zero_stage to 2",
        )
    elif stage > 3:
        yield _broken(
            "parallel.zero_stage", f"there is no ZeRO {stage}", "0, 1 or 2", "set parallel.zero_stage to 1"
        )


def zero_0_is_fp32(s: Strategy) -> Iterator[Problem]:
    if s.parallel.zero_stage == 0 and s.training.precision != "fp32":
        yield _broken(
            "parallel.zero_stage",
            f"0 with training.precision {s.training.precision}: DeepSpeed keeps no fp32 sum of "
            "gradients there, and its norm leaves the experts out",
            "1 or 2 with bf16 and fp8; 0 only with fp32",
            "set parallel.zero_stage to 1 or 2",
        )


def compact_is_staged(s: Strategy) -> Iterator[Problem]:
    if s.parallel.rank_order == "compact" and s.parallel.placement == "colocated":
        yield _broken(
            "parallel.rank_order",
            "compact, but in the colocated placement no stage stands before the experts",
            "document",
            "remove parallel.rank_order, or set parallel.placement to staged",
        )


# Cluster


def spare_hosts_leave_one(s: Strategy) -> Iterator[Problem]:
    hosts, spare = s.cluster.hosts.count, s.cluster.spare_hosts
    if spare >= hosts:
        yield _broken(
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
        yield _broken(
            "cluster.hosts",
            f"more slots than gpus_per_host ({s.cluster.gpus_per_host}): {', '.join(over[:4])}{more}",
            f"at most {s.cluster.gpus_per_host} slots a host",
            "correct the slots, or cluster.gpus_per_host",
        )


def world_fits_hosts(s: Strategy) -> Iterator[Problem]:
    world, cluster, degrees = world_size(s.parallel), s.cluster, s.parallel.short_name
    if world > MAX_WORLD:
        yield _broken(
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
            enough = next((n for n in range(usable, len(slots) + 1) if sum(slots[:n]) >= world), None)
            fix = (
                "lower parallel.dp, pp, ep or tp, or add hosts"
                if enough is None
                else f"set cluster.spare_hosts to {len(slots) - enough}, or lower parallel.dp, pp, ep or tp"
            )
            yield _broken(
                "parallel",
                f"{degrees} {s.parallel.placement} needs {world} ranks, but {_room(s, usable, room)}",
                f"at most {room} ranks",
                fix,
            )


def _room(s: Strategy, usable: int, room: int) -> str:
    spare = (
        f" ({s.cluster.spare_hosts} of {s.cluster.hosts.count} are spare)" if s.cluster.spare_hosts else ""
    )
    return f"{usable} host{'s' if usable > 1 else ''}{spare} carry {room}"


# Model


def top_k_within_experts(s: Strategy) -> Iterator[Problem]:
    k, num_experts = s.model.num_experts_per_tok, s.model.num_experts
    if k > num_experts:
        yield _broken(
            "model.num_experts_per_tok",
            f"{k} experts a token, but there are {num_experts} (model.num_experts)",
            f"1 to {num_experts}",
            f"set model.num_experts_per_tok to {num_experts} or less",
        )


def kv_heads_divide_heads(s: Strategy) -> Iterator[Problem]:
    heads, kv_heads = s.model.num_attention_heads, s.model.num_key_value_heads
    if heads % kv_heads:
        yield _broken(
            "model.num_key_value_heads",
            f"{kv_heads} does not divide model.num_attention_heads ({heads})",
            f"a divisor of {heads}: {_listed(divisors(heads))}",
            f"set model.num_key_value_heads to {_nearest(divisors(heads), kv_heads)}",
        )


def head_dim_follows(s: Strategy) -> Iterator[Problem]:
    hidden, heads = s.model.hidden_size, s.model.num_attention_heads
    if "head_dim" not in s.model.model_fields_set and hidden % heads:
        yield _broken(
            "model.head_dim",
            f"cannot follow: model.hidden_size ({hidden}) is no multiple of num_attention_heads ({heads})",
            "a head_dim, or heads that divide the hidden size",
            f"write model.head_dim, or set num_attention_heads to {_nearest(divisors(hidden), heads)}",
        )


def head_dim_is_even(s: Strategy) -> Iterator[Problem]:
    head_dim = s.model.head_dim
    if "head_dim" not in s.model.model_fields_set and s.model.hidden_size % s.model.num_attention_heads:
        return  # it could not be derived, which head_dim_follows says
    if head_dim % 2:
        yield _broken(
            "model.head_dim",
            f"{head_dim} is odd, but rotary embeddings turn pairs of dimensions",
            "an even number",
            f"set model.head_dim to {head_dim + 1}",
        )


def dense_layers_within_model(s: Strategy) -> Iterator[Problem]:
    dense, layers = s.model.first_dense_layers, s.model.num_hidden_layers
    if dense > layers:
        yield _broken(
            "model.first_dense_layers",
            f"{dense} dense layers, but there are {layers} layers (model.num_hidden_layers)",
            f"0 to {layers}",
            f"set model.first_dense_layers to {layers} or less",
        )


def dense_layers_have_a_size(s: Strategy) -> Iterator[Problem]:
    if s.model.first_dense_layers > 0 and s.model.intermediate_size is None:
        yield _broken(
            "model.intermediate_size",
            f"is missing, but the first {s.model.first_dense_layers} layers are dense",
            "the width of their feed-forward network",
            f"write model.intermediate_size, for example {4 * s.model.hidden_size}",
        )


def capacity_has_a_factor(s: Strategy) -> Iterator[Problem]:
    dispatch, factor = s.model.dispatch, s.model.capacity_factor
    if dispatch == "capacity" and factor is None:
        yield _broken(
            "model.capacity_factor",
            "is missing, but model.dispatch is capacity",
            "a number above 0; 1.0 is room for perfectly balanced tokens",
            "write model.capacity_factor: 1.25",
        )
    elif dispatch != "capacity" and factor is not None:
        yield _broken(
            "model.capacity_factor",
            f"{factor:g} would have no effect with model.dispatch {dispatch}",
            "null unless model.dispatch is capacity",
            "remove model.capacity_factor, or set model.dispatch to capacity",
        )


# Stock dispatch: DeepSpeed's own gate gives out neither router logits nor masks (sharded_moe.py of 0.19.8).


def stock_dispatch_has_plain_balance(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance != "loss":
        yield _stock("training.balance", s.training.balance, "loss", "it has no place for a bias")


def stock_dispatch_has_no_balance_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance_loss != 0:
        yield _stock(
            "training.balance_loss", f"{s.training.balance_loss:g}", "0", "it has no loss a sequence"
        )


def stock_dispatch_has_no_z_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.z_loss != 0:
        yield _stock("training.z_loss", f"{s.training.z_loss:g}", "0", "it gives out no router logits")


def stock_dispatch_renormalizes_by_itself(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.model.norm_topk_prob is not None:
        value = str(s.model.norm_topk_prob).lower()
        yield _stock("model.norm_topk_prob", value, "null", "it renormalises for k > 1 and never for k = 1")


def _stock(path: str, value: str, legal: str, why: str) -> Problem:
    return _broken(
        path,
        f"{value} with model.dispatch deepspeed: DeepSpeed's own gate cannot do it ({why})",
        legal,
        f"set {path} to {legal}, or model.dispatch to dropless",
    )


def stock_dispatch_halves_tokens(s: Strategy) -> Iterator[Problem]:
    tp = s.parallel.tp
    tokens = s.training.micro_batch * s.training.seq_length
    if s.model.dispatch == "deepspeed" and s.parallel.placement == "colocated" and tokens % tp:
        yield _broken(
            "parallel.tp",
            f"{tp} does not divide the {tokens} tokens of a micro-batch, as model.dispatch deepspeed needs",
            f"a divisor of micro_batch × seq_length: {_listed(divisors(tokens))}",
            "change training.seq_length or parallel.tp, or set model.dispatch to dropless",
        )


def stock_dispatch_fills_validation(s: Strategy) -> Iterator[Problem]:
    sequences = s.training.micro_batch * _widest(s)
    if s.model.dispatch == "deepspeed" and s.data.validation_sequences % sequences:
        yield _broken(
            "data.validation_sequences",
            f"{s.data.validation_sequences} would need padding, which model.dispatch deepspeed cannot mask",
            f"a multiple of micro_batch × data-parallel size: {sequences}",
            f"set data.validation_sequences to {-(-s.data.validation_sequences // sequences) * sequences}",
        )


# Training and output


def _widest(s: Strategy) -> int:
    """The largest data-parallel size; while ep and tp are wrong themselves, dp, which divides any of them."""
    if ep_is_legal(s) and not (s.parallel.ep % s.parallel.tp and s.parallel.tp % s.parallel.ep):
        return largest_data_parallel_size(s.parallel)
    return s.parallel.dp


def batch_is_whole(s: Strategy) -> Iterator[Problem]:
    widest, micro_batch, global_batch = _widest(s), s.training.micro_batch, s.training.global_batch
    sequences = micro_batch * widest
    if global_batch % sequences:
        below = global_batch // sequences * sequences
        near = f"{below} or {below + sequences}" if below else str(sequences)
        yield _broken(
            "training.global_batch",
            f"{global_batch} is no multiple of micro_batch × data-parallel size ({micro_batch} × {widest})",
            f"a multiple of {sequences}, so that accumulation is whole",
            f"set training.global_batch to {near}, or change training.micro_batch",
        )


def learning_rates_are_ordered(s: Strategy) -> Iterator[Problem]:
    low, high = s.training.min_learning_rate, s.training.learning_rate
    if low > high:
        yield _broken(
            "training.min_learning_rate",
            f"{low:g} is above training.learning_rate ({high:g})",
            f"0 to {high:g}",
            f"set training.min_learning_rate to {high / 10:g}",
        )


def warmup_within_schedule(s: Strategy) -> Iterator[Problem]:
    warmup, horizon = s.training.warmup_steps, s.training.schedule_steps
    if horizon is not None and warmup > horizon:
        yield _broken(
            "training.warmup_steps",
            f"{warmup} is more than training.schedule_steps ({horizon})",
            f"0 to {horizon}",
            f"set training.warmup_steps to {horizon // 10}",
        )


def branch_has_a_source(s: Strategy) -> Iterator[Problem]:
    if s.output.branch and s.output.resume in ("auto", "never", "require"):
        yield _broken(
            "output.resume",
            f"{s.output.resume}, but output.branch starts another course from a run's folder",
            "the folder of a run",
            "set output.resume to that folder, or output.branch to false",
        )


RULES = (
    tp_and_ep_nest,
    ep_divides_experts,
    ep_needs_moe_layers,
    pp_within_layers,
    heads_split_over_tp,
    aggregation_splits_over_tp,
    zero_stage_is_supported,
    zero_0_is_fp32,
    compact_is_staged,
    spare_hosts_leave_one,
    slots_within_host,
    world_fits_hosts,
    top_k_within_experts,
    kv_heads_divide_heads,
    head_dim_follows,
    head_dim_is_even,
    dense_layers_within_model,
    dense_layers_have_a_size,
    capacity_has_a_factor,
    stock_dispatch_has_plain_balance,
    stock_dispatch_has_no_balance_loss,
    stock_dispatch_has_no_z_loss,
    stock_dispatch_renormalizes_by_itself,
    stock_dispatch_halves_tokens,
    stock_dispatch_fills_validation,
    batch_is_whole,
    learning_rates_are_ordered,
    warmup_within_schedule,
    branch_has_a_source,
)
