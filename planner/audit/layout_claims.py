"""Figures of the cluster and of the layout."""

from collections.abc import Iterator

from planner.audit.verdicts import AuditContext, Derivation
from planner.counts.parameters import TensorKind, stage_parameters
from planner.memory.optimizer_state import bytes_per_parameter
from planner.plan.ds_config import zero_stage
from planner.timing.gemm_time import rate
from planner.topology.placement import Stage
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
    moments = context.strategy.training.optimizer.moments
    each = bytes_per_parameter(precision, zero, moments=moments)
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
