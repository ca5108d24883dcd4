"""Times what a step is made of on one device: products, operations that are no products, issuing one."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ROWS = 8  # a product of [8·d, d] × [d, d]: many tokens through a matrix, as in a model
_WIDTHS = (16, 32, 64, 128, 256, 512)
_GROUPS = 16
_GROUPED = ((6, 64), (24, 64), (96, 64), (96, 128), (256, 256))  # rows of one expert, its width
_MOVED = (12_000, 100_000, 400_000, 1_500_000, 6_000_000, 48_000_000)  # bytes of one operation
_CHAIN = 64


@dataclass(frozen=True, kw_only=True)
class Rates:
    """peaks: FLOP/s. gemm, grouped: (cube root of m·n·k, share of the peak). elementwise: (bytes moved,
    bytes/s). operation_s: issuing one operation, forward or backward."""

    peaks: dict[str, float]
    gemm: dict[str, list[tuple[float, float]]]
    grouped: dict[str, list[tuple[float, float]]]
    elementwise: list[tuple[float, float]]
    operation_s: float


def measure(device: torch.device) -> Rates:
    """All primitives; about half a minute on a CPU."""
    peaks, gemm, grouped = {}, {}, {}
    for precision, dtype in DTYPES.items():
        rates = [(_size(_ROWS * d, d, d), _product_rate(d, dtype, device)) for d in _WIDTHS]
        experts = [(_size(r, d, d), _grouped_rate(r, d, dtype, device)) for r, d in _GROUPED]
        peaks[precision] = max(rate for _, rate in rates + experts)
        gemm[precision] = [(size, rate / peaks[precision]) for size, rate in rates]
        grouped[precision] = [(size, rate / peaks[precision]) for size, rate in experts]
    return Rates(
        peaks=peaks,
        gemm=gemm,
        grouped=grouped,
        elementwise=[(float(moved), _moving_rate(moved, device)) for moved in _MOVED],
        operation_s=_operation_s(device),
    )


def seconds(work: Callable[[], object], device: torch.device, budget_s: float = 0.25) -> float:
    """The lower quartile of repetitions that fill a budget, at least four.

    On a CPU it is the time of this process, which works in one thread: other programs add little to it.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def once() -> float:
        began = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    once()
    first = once()
    found = sorted(once() for _ in range(min(300, max(4, int(budget_s / max(first, 1e-7))))))
    return found[len(found) // 4]


def _size(m: int, n: int, k: int) -> float:
    return float((m * n * k) ** (1 / 3))


def _product_rate(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a product and the two of its backward pass."""
    x = torch.randn(_ROWS * width, width, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(width, width, device=device, dtype=dtype, requires_grad=True)
    ones = torch.ones(_ROWS * width, width, device=device, dtype=dtype)

    def work() -> None:
        torch.autograd.grad(functional.linear(x, weight), (x, weight), ones)

    return 3 * 2 * _ROWS * width**3 / seconds(work, device)


def _grouped_rate(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """The same for products of experts, each with `rows` rows."""
    x = torch.randn(_GROUPS * rows, width, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(_GROUPS, width, width, device=device, dtype=dtype, requires_grad=True)
    ends = torch.arange(1, _GROUPS + 1, device=device, dtype=torch.int32) * rows
    ones = torch.ones(_GROUPS * rows, width, device=device, dtype=dtype)

    def work() -> None:
        y = functional.grouped_mm(x, weight.transpose(1, 2), offs=ends)
        torch.autograd.grad(y, (x, weight), ones)

    return 3 * 2 * _GROUPS * rows * width**2 / seconds(work, device)


def _moving_rate(moved: int, device: torch.device) -> float:
    """Bytes/s of an operation that reads two tensors and makes a third, without what issuing it takes."""
    a, b, tiny = (torch.randn(size, device=device) for size in (moved // 12, moved // 12, 4))
    whole, issued = seconds(lambda: a * b, device), seconds(lambda: tiny * tiny, device)
    return moved / max(whole - issued, 0.2 * whole)


def _operation_s(device: torch.device) -> float:
    """Seconds to issue an operation, over a chain of them forward and backward through autograd."""
    x = torch.ones(4, device=device, requires_grad=True)
    factor = torch.ones(4, device=device)

    def work() -> None:
        y: Tensor = x
        for _ in range(_CHAIN):
            y = y * factor
        y.sum().backward()

    return seconds(work, device) / (2 * _CHAIN)
