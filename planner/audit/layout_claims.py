"""Figures of the cluster and the layout, and how many GPUs a changed strategy would need."""

from collections.abc import Iterator

from planner.audit.verdicts import AuditContext, Derivation
from planner.counts.parameters import TensorKind, stage_parameters
from planner.memory.optimizer_state import bytes_per_parameter
from planner.plan.ds_config import zero_stage
from planner.rules.registry import find_broken_rules
from planner.strategy.changes import change_keys
from planner.strategy.schema import Parallel, Strategy
from planner.timing.gemm_time import rate
from planner.topology.placement import Stage, largest_data_parallel_size, world_size
from planner.units import format_quantity, plural

# The cluster and the batch


def gpus_available(context: AuditContext) -> Iterator[Derivation]:
    cluster = context.strategy.cluster
    text = f"{cluster.hosts.count} hosts × {cluster.gpus_per_host}, as the strategy's cluster says"
    yield Derivation(value=context.available, arithmetic=text)


def gpu_memory(context: AuditContext) -> Iterator[Derivation]:
    yield Derivation(
        value=context.strategy.cluster.gpu.memory, arithmetic="as the strategy's cluster.gpu says"
    )


def gpu_peak(context: AuditContext) -> Iterator[Derivation]:
    precision = context.strategy.training.precision
    peak = rate(context.prediction.device, precision)[0]
    yield Derivation(value=peak, arithmetic=f"of matmuls in {precision}, as the strategy's cluster.gpu says")


def link_bandwidth(context: AuditContext) -> Iterator[Derivation]:
    links = context.strategy.cluster.links
    for of, value in (("between hosts", links.inter_host), ("inside a host", links.intra_host)):
        text = f"cluster.links, per GPU and one way: {format_quantity(value, 'bytes/s')}"
        yield Derivation(of=of, value=value, arithmetic=text)


def weight_bytes(context: AuditContext) -> Iterator[Derivation]:
    precision, zero = context.strategy.training.precision, zero_stage(context.plan)
    stored = bytes_per_parameter(precision, zero, is_training=False).weight
    text = f"{precision} takes {stored} per parameter for inference"
    yield Derivation(of="weights to evaluate", value=stored, arithmetic=text)
    each = bytes_per_parameter(precision, zero)
    names = ("weight", "gradient", "accumulation", "master", "moments")
    parts = " + ".join(f"{name} {getattr(each, name)}" for name in names if getattr(each, name))
    yield Derivation(
        of="in training, on one rank", value=each.total(), arithmetic=f"{parts}, before ZeRO", decides=False
    )


def tokens_per_batch(context: AuditContext) -> Iterator[Derivation]:
    training = context.strategy.training
    tokens = training.global_batch * training.seq_length
    yield Derivation(value=tokens, arithmetic=f"{training.global_batch} × {training.seq_length} = {tokens:,}")


# The layout


def gpus_used(context: AuditContext) -> Iterator[Derivation]:
    world = context.plan.world_size
    yield Derivation(value=world, arithmetic=f"{_sum_of_stages(context.plan.stages)} = {world}")


def gpus_spare(context: AuditContext) -> Iterator[Derivation]:
    spare = context.available - context.plan.world_size
    yield Derivation(value=spare, arithmetic=f"{context.available} − {context.plan.world_size} = {spare}")


def gpus_used_share(context: AuditContext) -> Iterator[Derivation]:
    share = context.plan.world_size / context.available
    text = f"{context.plan.world_size} / {context.available} = {100 * share:.5g} %"
    yield Derivation(value=share, arithmetic=text)


def gpus_per_host_used(context: AuditContext) -> Iterator[Derivation]:
    most, slots = max(len(host.ranks) for host in context.plan.hosts), max(context.strategy.cluster.slots)
    is_cpu = context.strategy.cluster.gpu.is_cpu
    yield Derivation(
        value=most,
        arithmetic=f"{context.plan.world_size} ranks, {len(context.plan.hosts)} hosts, at most {most} on one",
        # Whatever is done, a host carries no more than its slots.
        bound=None if is_cpu else slots,
        why="" if is_cpu else f"a host has {plural(slots, 'GPU')}",
    )


def experts_per_gpu(context: AuditContext) -> Iterator[Derivation]:
    num, ep = context.strategy.model.num_experts, context.strategy.parallel.ep
    yield Derivation(value=num / ep, arithmetic=f"{num} experts per layer / ep {ep} = {num / ep:g}")


def expert_instances(context: AuditContext) -> Iterator[Derivation]:
    model = context.strategy.model
    count = model.num_experts * model.num_moe_layers
    text = f"{model.num_experts} experts × {model.num_moe_layers} layers = {count:,}"
    yield Derivation(value=count, arithmetic=text)


def embedding_parameters(context: AuditContext) -> Iterator[Derivation]:
    model, tp = context.strategy.model, context.embedding.dense.size("tp")
    count = held(context, context.embedding, "embedding")
    text = f"{model.vocab_size} rows / tp {tp} × {model.hidden_size} = {count:,}"
    yield Derivation(value=count, arithmetic=text)


def expert_parameters(context: AuditContext) -> Iterator[Derivation]:
    model, ep = context.strategy.model, context.strategy.parallel.ep
    count = expert_layer_parameters(context)
    matrices = 3 if model.expert == "swiglu" else 2
    text = (
        f"{model.num_experts // ep} expert × {matrices} matrices × {model.hidden_size} × "
        f"{model.moe_intermediate_size} = {count:,}"
    )
    yield Derivation(value=count, arithmetic=text)


def aggregation_parameters(context: AuditContext) -> Iterator[Derivation]:
    model, tp = context.strategy.model, context.output.dense.size("tp")
    if model.aggregation == "none":
        yield Derivation(value=None, arithmetic="the model has no aggregation (model.aggregation: none)")
        return
    count = held(context, context.output, "aggregation")
    text = f"{model.hidden_size} × {model.hidden_size} / tp {tp} = {count:,}"
    yield Derivation(value=count, arithmetic=text)


def held(context: AuditContext, stage: Stage, *kinds: TensorKind) -> int:
    """Parameters of some kinds on a stage's first rank, which has the most."""
    tensors = stage_parameters(context.strategy.model, stage)
    return sum(tensor.num_elements for tensor in tensors if tensor.kind in kinds)


def expert_layer_parameters(context: AuditContext) -> int:
    """Parameters of a rank's experts in one layer."""
    model = context.strategy.model
    if not model.num_moe_layers:
        return 0
    moe = context.experts.num_layers(model.first_dense_layers)[1]
    return held(context, context.experts, "experts") // max(moe, 1)


# GPUs for a changed strategy


def gpus_for_batch_256(context: AuditContext) -> Iterator[Derivation]:
    s = context.strategy
    changed = change_keys(s, {"training.global_batch": 256})
    world, widest = world_size(s.parallel), largest_data_parallel_size(s.parallel)
    micro = s.training.micro_batch
    text = (
        f"{world} as before: 256 = micro_batch {micro} × accumulation {256 / (micro * widest):g} × {widest}; "
        f"a larger batch takes more accumulation steps, not more GPUs"
    )
    yield _needs(context, changed, text)


def gpus_for_dp2(context: AuditContext) -> Iterator[Derivation]:
    yield from _in_both_placements(context, {"dp": 2})


def gpus_for_128_experts(context: AuditContext) -> Iterator[Derivation]:
    s, ep = context.strategy, context.strategy.parallel.ep
    each, rest = divmod(128 * ep, s.model.num_experts)
    if not rest:
        local = f"{128 // each} per expert rank"
        changed = change_keys(s, {"model.num_experts": 128, "parallel.ep": each})
        yield _needs(context, changed, _sum_of_degrees(changed.parallel), of=local)
    if not 128 % ep:
        changed = change_keys(s, {"model.num_experts": 128})
        local = f"{128 // ep} per expert rank"
        yield _needs(context, changed, _sum_of_degrees(s.parallel), of=local, decides=bool(rest))
    elif rest:
        yield Derivation(value=None, arithmetic=f"128 experts do not divide over ep {ep}")


def gpus_for_ep32_tp2(context: AuditContext) -> Iterator[Derivation]:
    yield from _in_both_placements(context, {"ep": 32, "tp": 2, "pp": 1, "dp": 1}, is_fallback=True)


def gpus_for_ep64_tp4(context: AuditContext) -> Iterator[Derivation]:
    yield from _in_both_placements(context, {"ep": 64, "tp": 4, "pp": 1, "dp": 1}, is_fallback=True)


def gpus_for_ep64_tp2_pp2(context: AuditContext) -> Iterator[Derivation]:
    yield from _in_both_placements(context, {"ep": 64, "tp": 2, "pp": 2, "dp": 1}, is_fallback=True)


def _in_both_placements(
    context: AuditContext, degrees: dict[str, int], *, is_fallback: bool = False
) -> Iterator[Derivation]:
    """The strategy's own placement decides; the other is printed beside it.

    A fallback is stated as fitting so many GPUs, a scaling as needing exactly so many.
    """
    s = context.strategy
    own = s.parallel.placement
    for placement in (own, "staged" if own == "colocated" else "colocated"):
        update: dict[str, object] = {**degrees, "placement": placement}
        if placement == "colocated":
            update["rank_order"] = "document"
        changed = change_keys(s, {f"parallel.{key}": value for key, value in update.items()})
        parallel = changed.parallel
        text = f"{parallel.short_name} {placement}: {_sum_of_degrees(parallel)}"
        yield _needs(context, changed, text, of=placement, is_fallback=is_fallback, decides=placement == own)


def _needs(
    context: AuditContext,
    changed: Strategy,
    text: str,
    *,
    of: str = "",
    is_fallback: bool = False,
    decides: bool = True,
) -> Derivation:
    """GPUs of a changed strategy on the complete cluster, including its spare hosts."""
    problems = tuple(find_broken_rules(change_keys(changed, {"cluster.spare_hosts": 0})))
    world = world_size(changed.parallel)
    too_many = world > context.available and not changed.cluster.gpu.is_cpu
    other = [problem for problem in problems if problem.path != "parallel"]
    if other:
        text += f"; not legal: {other[0].path}: {other[0].found}"
    elif not too_many:
        text += f"; {context.available - world} of {context.available} left"
    return Derivation(
        of=of,
        value=None if other else world,
        arithmetic=text,
        relation="at most" if is_fallback else "equals",
        decides=decides,
        exceeds=too_many and not other,
        why=f"{world} GPUs are more than the cluster's {context.available}" if too_many else "",
    )


def _sum_of_degrees(p: Parallel) -> str:
    world = world_size(p)
    if p.placement == "staged":
        copies = (
            f"{p.dp} × ({p.tp} + {p.pp * p.ep} + {p.tp})" if p.dp > 1 else f"{p.tp} + {p.pp * p.ep} + {p.tp}"
        )
        return f"{copies} = {world}"
    return f"pp {p.pp} × dp {p.dp} × max(ep {p.ep}, tp {p.tp}) = {world}"


def _sum_of_stages(stages: tuple[Stage, ...]) -> str:
    return " + ".join(f"{len(stage.ranks)} {stage.name}" for stage in stages)
