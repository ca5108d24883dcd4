"""Assumptions of a prediction, as lines printed beside it."""

from collections.abc import Iterator

from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import Device
from planner.memory.rank_memory import GPU_OVERHEAD_BYTES, GPU_OVERHEAD_RANGE
from planner.plan.plan import Plan


def runtime_predicted(plan: Plan) -> str:
    """Which overlap of compute and communication the expected value assumes."""
    if len(plan.stages) == 1:
        return (
            "no overlap of compute and communication: every collective is blocking, gradients are reduced "
            "after backward (overlap_comm: false)"
        )
    return (
        "1F1B over micro-batches; P2P transfers overlap with the sender's next micro-batch, in chunks for "
        "stages without layers; no overlap inside a stage"
    )


def assumptions(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> tuple[str, ...]:
    """Lines, the most influential first. `slower`: slowdown of ranks that share cores (collective_time)."""
    return tuple(_lines(plan, device, imbalance, slower))


def _lines(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> Iterator[str]:
    strategy = plan.strategy
    if imbalance.factor == 1:
        yield "tokens are balanced over experts (balance 1.0; set another with `--balance`)"
    else:
        yield (
            f"the fullest rank receives {imbalance.factor:.3g} times the mean number of expert tokens "
            f"(balance {imbalance.balance:.3g}), in every layer; all others wait for it"
        )
    links = strategy.cluster.links
    inside, between = device.intra_bytes_per_s, device.inter_bytes_per_s
    if device.collectives and len(plan.hosts) == 1:
        yield "intra-host collectives: as measured, not from cluster.links"
    elif inside is not None or between is not None:
        measured = [
            f"{rate / 1e9:.3g} GB/s {where}"
            for rate, where in ((inside, "intra-host"), (between, "inter-host"))
            if rate is not None
        ]
        yield f"links per rank, one way, as measured: {', '.join(measured)}; not from cluster.links"
    else:
        yield (
            f"links per rank, one way: {links.intra_host / 1e9:g} GB/s intra-host, "
            f"{links.inter_host / 1e9:g} GB/s inter-host; large messages reach {device.link_share:.0%}"
        )
    if device.cores is not None and len(plan.hosts[0].ranks) > device.cores:
        ranks = len(plan.hosts[0].ranks)
        some = "" if len(plan.stages) == 1 else f", {slower * device.cores:.1f} of them busy on average"
        yield f"{ranks} ranks share {device.cores} cores{some}: compute is {slower:.3g} times slower"
    if strategy.training.precision == "fp8":
        yield "weight GEMMs at the FP8 rate; attention, P2P transfers and gradients in bf16"
    if strategy.runtime.fp8_payload:
        yield "all-to-all payload: FP8 in the forward pass, bf16 in backward"
    if strategy.model.dispatch == "deepspeed":
        yield "DeepSpeed's all-to-all runs inside its own layer: telemetry counts it as compute"
    if any(host_ranks != len(plan.hosts[0].ranks) for host_ranks in (len(h.ranks) for h in plan.hosts[:-1])):
        yield "hosts hold different numbers of ranks; groups are modelled as if every host were equally full"
    if not device.is_cpu:
        low, high = (f"{count / 1e9:.3g}" for count in GPU_OVERHEAD_RANGE)
        yield (
            f"{GPU_OVERHEAD_BYTES / 1e9:.3g} GB per GPU outside of tensors: CUDA context, NCCL buffers "
            f"(reported: {low} to {high} GB, by number of groups)"
        )
    yield from device.sources
