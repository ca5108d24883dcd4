"""Assumptions of a prediction, as lines printed beside it."""

from collections.abc import Iterator

from planner.counts.forced_load import plan_load
from planner.counts.rank_workload import ExpertImbalance, rank_workload
from planner.counts.replays import replays_per_step
from planner.hardware.catalog import Device
from planner.memory.rank_memory import GPU_OVERHEAD_BYTES, GPU_OVERHEAD_RANGE
from planner.plan.ds_config import sums_locally
from planner.plan.plan import Plan
from planner.timing.fused_ops import FUSED_KERNELS
from planner.timing.gemm_time import known_precision, rate
from planner.timing.op_table import op_table
from planner.timing.optimizer_time import reductions_per_step
from planner.units import format_bytes, format_rate


def runtime_predicted(plan: Plan) -> str:
    """Which kernels, and which overlap of compute and communication, the expected value assumes."""
    runtime = plan.strategy.runtime
    often = "reduced once a step" if reductions_per_step(plan) == 1 else "reduced after every micro-batch"
    if sums_locally(plan):
        wire = "bf16" if plan.strategy.training.element_bytes == 2 else "fp32"
        often = f"summed in fp32 on each rank and reduced once a step, in {wire}"
    after = "" if runtime.overlap_reduce else ", after backward (overlap_comm: false)"
    if len(plan.stages) == 1:
        return f"{runtime.kernels} kernels; {_overlap(plan)}; gradients are {often}{after}"
    return (
        f"{runtime.kernels} kernels; 1F1B over micro-batches; P2P transfers overlap with the sender's next "
        "micro-batch, in chunks for stages without layers; inside a stage "
        f"{_overlap(plan)}; gradients are {often}"
    )


def _overlap(plan: Plan) -> str:
    """Which collectives run beside compute."""
    runtime, found = plan.strategy.runtime, []
    if runtime.overlap_reduce:
        found.append("gradients are reduced beside backward, but for the last bucket")
    if runtime.overlap_all_to_all:
        pairs = "beside another's compute" if plan.batch.accumulation > 1 else "blocking: there is only one"
        found.append(f"all-to-alls of a micro-batch are {pairs}")
    if not found:
        return "no overlap: every collective is blocking"
    return f"{', '.join(found)}; every other collective is blocking"


def assumptions(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> tuple[str, ...]:
    """Lines, the most influential first. `slower`: slowdown of ranks that share cores (collective_time)."""
    return tuple(_lines(plan, device, imbalance, slower))


def _lines(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> Iterator[str]:
    strategy = plan.strategy
    forced = plan_load(plan)
    if forced is not None:
        yield (
            f"runtime.force_routing {strategy.runtime.force_routing}: the fullest rank receives "
            f"{forced.factor:.3g} times the mean number of expert tokens, as counted; memory is for the "
            f"fullest micro-batch, with {forced.peak_factor:.3g} times"
        )
    elif imbalance.factor == 1:
        yield "tokens are balanced over experts (balance 1.0; set another with `--balance`)"
    else:
        yield (
            f"the fullest rank receives {imbalance.factor:.3g} times the mean number of expert tokens "
            f"(balance {imbalance.balance:.3g}), in every layer; all others wait for it"
        )
    inside, between = device.intra_bytes_per_s, device.inter_bytes_per_s
    if device.collectives and len(plan.hosts) == 1:
        yield "intra-host collectives: as measured, not from cluster.links"
    elif inside is not None or between is not None:
        measured = [
            f"{format_rate(rate)} {where}"
            for rate, where in ((inside, "intra-host"), (between, "inter-host"))
            if rate is not None
        ]
        yield f"links per rank, one way, as measured: {', '.join(measured)}; not from cluster.links"
    elif plan.world_size > 1:
        yield from _link_lines(plan, device)
    if device.cores is not None and len(plan.hosts[0].ranks) > device.cores:
        ranks = len(plan.hosts[0].ranks)
        some = "" if len(plan.stages) == 1 else f", {slower * device.cores:.1f} of them busy on average"
        yield f"{ranks} ranks share {device.cores} cores{some}: compute is {slower:.3g} times slower"
    yield from _kernels(plan, imbalance)
    replays = replays_per_step(plan)
    if replays:
        yield (
            f"runtime.replay_every: a micro-batch more in one of {1 / replays:.3g} steps, those before a "
            "checkpoint included; comparing its gradients is not counted"
        )
    if sums_locally(plan):
        yield "fp32 sums of gradients: read and written once a micro-batch, derived and not measured"
    precision = strategy.training.precision
    known = known_precision(device, precision)
    if known != precision:
        times = rate(device, precision)[0] / device.peak[known]
        share = "" if times == 1 else f"{times:g} of "
        yield f"{device.name} has no {precision} peak: GEMMs and MFU by {share}its {known} peak"
    elif precision == "fp8":
        yield "weight GEMMs at the FP8 rate, but for the weights' gradients; these, attention and P2P in bf16"
    if strategy.runtime.fp8_payload:
        yield "rows to experts and between stages: FP8, forward and backward; packing them is not counted"
    if strategy.model.dispatch == "deepspeed":
        yield "DeepSpeed's all-to-all runs inside its own layer: telemetry counts it as compute"
    if any(host_ranks != len(plan.hosts[0].ranks) for host_ranks in (len(h.ranks) for h in plan.hosts[:-1])):
        yield "hosts hold different numbers of ranks; groups are modelled as if every host were equally full"
    if not device.is_cpu:
        low, high = map(format_bytes, GPU_OVERHEAD_RANGE)
        yield (
            f"{format_bytes(GPU_OVERHEAD_BYTES)} per GPU outside of tensors: CUDA context, NCCL buffers "
            f"(reported: {low} to {high}, by number of groups)"
        )
    yield from device.sources


def _kernels(plan: Plan, imbalance: ExpertImbalance) -> Iterator[str]:
    """Where the bytes of memory-bound operations come from, and what they were not counted for."""
    model = plan.strategy.model
    if plan.strategy.runtime.kernels == "fused":
        yield (
            f"fused kernels ({FUSED_KERNELS}) read their inputs once and write their outputs once: derived, "
            "not counted"
        )
        return
    outside = sorted(
        {
            found
            for stage in plan.stages
            for found in op_table().outside(rank_workload(plan, stage, imbalance))
        }
    )
    if model.dispatch != "dropless":
        outside.append(f"dispatch {model.dispatch} (dropless)")
    if outside:
        yield f"memory-bound operations were counted for other sizes: {', '.join(outside)}"


def _link_lines(plan: Plan, device: Device) -> Iterator[str]:
    """The strategy's own links: their rates, where named ones are from, what hosts share."""
    links = plan.strategy.cluster.links
    between = links.inter_host_rate(plan.host_size)
    yield (
        f"links per rank, one way: {format_rate(links.intra_host)} intra-host, {format_rate(between)} "
        f"inter-host; large messages reach {device.link_share:.0%}"
    )
    for key, preset in (("intra_host", links.intra_host.preset), ("inter_host", links.inter_host.preset)):
        if preset is not None:
            rate = format_rate(preset.bytes_per_s)
            yield f"{key} {preset.name}: {rate} of a GPU, one way ({preset.source})"
    if links.per_host is not None or links.oversubscription > 1:
        host = "" if links.per_host is None else f" and {format_rate(links.per_host)} of a host"
        yield (
            f"inter-host bandwidth of a rank: the least of its own link, {format_rate(links.inter_host)},"
            f"{host} over {plan.host_size} ranks, divided by an oversubscription of "
            f"{links.oversubscription:g}, as if all ranks used it at once"
        )
