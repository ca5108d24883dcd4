"""What a prediction rests on, as lines that are printed beside it."""

from collections.abc import Iterator

from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import Device
from planner.memory.rank_memory import GPU_OVERHEAD_BYTES, GPU_OVERHEAD_RANGE
from planner.plan.plan import Plan


def runtime_predicted(plan: Plan) -> str:
    """Which runtime the expected value is for, and what it overlaps."""
    if len(plan.stages) == 1:
        return (
            "this version's runtime, which overlaps nothing: every collective is waited for, "
            "gradients are reduced after backward (overlap_comm: false)"
        )
    return (
        "this version's runtime: 1F1B over micro-batches; what is handed over travels while its sender goes "
        "on, stages without layers in chunks; inside a stage nothing overlaps"
    )


def assumptions(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> tuple[str, ...]:
    """Lines in the order of how much hangs on them. `slower`: what sharing cores costs (collective_time)."""
    return tuple(_lines(plan, device, imbalance, slower))


def _lines(plan: Plan, device: Device, imbalance: ExpertImbalance, slower: float) -> Iterator[str]:
    strategy = plan.strategy
    if imbalance.factor == 1:
        yield "tokens reach experts evenly (balance 1.0; `--balance` states another)"
    else:
        yield (
            f"the fullest rank gets {imbalance.factor:.3g} times the mean of its experts' tokens (balance "
            f"{imbalance.balance:.3g}), in every layer; all wait for it"
        )
    links = strategy.cluster.links
    inside, between = device.intra_bytes_per_s, device.inter_bytes_per_s
    if device.collectives and len(plan.hosts) == 1:
        yield "collectives inside the host as measured, not from cluster.links"
    elif inside is not None or between is not None:
        measured = [
            f"{rate / 1e9:.3g} GB/s {where}"
            for rate, where in ((inside, "inside a host"), (between, "between hosts"))
            if rate is not None
        ]
        yield f"links of a rank, one way, as measured: {', '.join(measured)}; not from cluster.links"
    else:
        yield (
            f"links of a rank, one way: {links.intra_host / 1e9:g} GB/s inside a host, "
            f"{links.inter_host / 1e9:g} GB/s between hosts; large messages reach {device.link_share:.0%}"
        )
    if device.cores is not None and len(plan.hosts[0].ranks) > device.cores:
        ranks = len(plan.hosts[0].ranks)
        some = "" if len(plan.stages) == 1 else f", of which {slower * device.cores:.1f} are at work at once"
        yield f"{ranks} ranks share {device.cores} cores{some}: computing takes {slower:.3g} times as long"
    if strategy.training.precision == "fp8":
        yield "products of weights at the FP8 rate, attention in bf16; hand-overs and gradients in bf16"
    if strategy.runtime.fp8_payload:
        yield "tokens travel to experts and back in FP8 in the forward pass, their gradients in bf16"
    if strategy.model.dispatch == "deepspeed":
        yield "DeepSpeed's own all-to-all is inside its layer: telemetry counts it as compute"
    if any(host_ranks != len(plan.hosts[0].ranks) for host_ranks in (len(h.ranks) for h in plan.hosts[:-1])):
        yield "hosts carry different numbers of ranks; groups are taken to lie as on equally full ones"
    if not device.is_cpu:
        low, high = (f"{count / 1e9:.3g}" for count in GPU_OVERHEAD_RANGE)
        yield (
            f"a GPU holds {GPU_OVERHEAD_BYTES / 1e9:.3g} GB outside of tensors: CUDA's context, NCCL's "
            f"buffers (reports say {low} to {high}, by the number of groups)"
        )
    yield from device.sources
