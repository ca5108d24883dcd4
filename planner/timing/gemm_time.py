"""Seconds of matrix products on a device: FLOPs over the share of the peak that products of a size reach."""

from collections.abc import Callable

from planner.counts.module_flops import Gemm, ModuleCost, gemms_again, is_recomputed
from planner.counts.rank_workload import RankWorkload
from planner.hardware.catalog import Device
from planner.strategy.recompute import RecomputeKind

# Where a device's rate for fp32 is not known: tensor cores do it at 1/8 of their bf16 rate or less.
_FP32_OF_BF16 = 1 / 8


def forward_s(work: ModuleCost, p: RankWorkload, device: Device, precision: str) -> float:
    """Seconds of the products in one forward pass of a module, of all its layers."""
    seconds = sum(gemm_s(gemm, device, precision) for gemm in work.gemms)
    if work.name == "attention":
        seconds += attention_s(work.flops_forward, p, device, precision)
    return seconds


def backward_s(work: ModuleCost, p: RankWorkload, device: Device, precision: str) -> float:
    """Seconds of the products in one backward pass, without those that runtime.recompute asks for.

    Each product has two in backward, of the same size but for which side is long. With FP8 the weight's
    gradient is in bf16.
    """
    forward = forward_s(work, p, device, precision)
    if precision == "fp8":
        forward = (forward + forward_s(work, p, device, "bf16")) / 2
    if not work.flops_forward:
        return 0.0
    ratio = work.flops_backward / work.flops_forward
    if work.name == "attention":
        ratio += 0.5  # the scores again, inside the fused kernel
    return forward * ratio


def recomputed_s(
    work: ModuleCost, p: RankWorkload, device: Device, precision: str, recompute: RecomputeKind
) -> float:
    """Seconds of the products that backward makes a second time."""
    seconds = sum(
        gemm_s(gemm, device, precision) for gemm in gemms_again(work, recompute, is_float8=p.is_float8)
    )
    if work.name == "attention" and is_recomputed(work, recompute):
        seconds += attention_s(work.flops_forward, p, device, precision)
    return seconds


def gemm_s(gemm: Gemm, device: Device, precision: str) -> float:
    """Seconds of one line of products; never less than the weights take to be read."""
    peak, curve = rate(device, "fp32" if gemm.dtype == "fp32" else precision)
    grouped = device.grouped.get("fp32" if gemm.dtype == "fp32" else precision)
    rows, times = gemm.m, gemm.count
    if gemm.groups > 1 and grouped is not None:
        curve, times = grouped.at, gemm.count * gemm.groups
    elif gemm.groups > 1 and device.is_cpu:
        times = gemm.count * gemm.groups
    elif gemm.groups > 1:
        # One kernel for all experts: it fills the device together, each expert rounded up to whole tiles.
        rows = gemm.groups * -(-gemm.m // device.tile_rows) * device.tile_rows
    volume = float(rows) * gemm.n * gemm.k
    seconds = times * 2 * volume / (peak * curve(volume ** (1 / 3)))
    if device.is_cpu:
        return seconds  # the measured curve holds what memory takes
    element = {"fp32": 4, "fp8": 1}.get(precision, 2) if gemm.dtype == "weights" else 4
    touched = element * (rows * (gemm.n + gemm.k) + gemm.groups * gemm.n * gemm.k)
    return max(seconds, gemm.count * touched / device.elementwise.at(touched))


def attention_s(flops: float, p: RankWorkload, device: Device, precision: str) -> float:
    """Seconds of fused causal attention. On a GPU all heads are one kernel, on a CPU one head is a product.

    FP8 strategies attend in bf16.
    """
    precision = "bf16" if precision == "fp8" else precision
    peak, curve = rate(device, precision)
    if precision in device.attention:
        curve = device.attention[precision].at
    pairs = p.seq_length * (p.seq_length + 1) / 2
    width = p.model.head_dim if device.is_cpu else p.num_sequences * p.q
    return flops / (peak * curve((pairs * width) ** (1 / 3)))


def rate(device: Device, precision: str) -> tuple[float, Callable[[float], float]]:
    """Peak FLOP/s in a precision and the share of it by size; the nearest precision that is known.

    FP8 on a device without FP8 units computes in bf16.
    """
    known = known_precision(device, precision)
    peak = device.peak[known]
    if precision == "fp32" and known != "fp32":
        peak *= _FP32_OF_BF16
    return peak, (device.gemm.get(known) or next(iter(device.gemm.values()))).at


def known_precision(device: Device, precision: str) -> str:
    """The precision whose peak is used for one: its own where the device has it."""
    return next(name for name in (precision, "bf16", "fp32", "fp8") if name in device.peak)
