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
# Bytes of one operation. Each tensor stays below 32 MiB: what larger ones cost is `fresh`.
_MOVED = (12_000, 100_000, 400_000, 1_500_000, 6_000_000, 48_000_000)
_FRESH_BYTES = 64 * 2**20
_CHAIN = 64
_LIVE_BYTES, _ROUNDS = 32 * 2**20, 4  # of the tensors that take turns; how many turns are timed at once


@dataclass(frozen=True, kw_only=True)
class Rates:
    """peaks: FLOP/s. gemm, grouped: (cube root of m·n·k, share of the peak). elementwise: (bytes moved,
    bytes/s). operation_s: issuing one operation, forward or backward. fresh: bytes/s of first touching
    memory, on top of writing it; None for a device whose allocator keeps it."""

    peaks: dict[str, float]
    gemm: dict[str, list[tuple[float, float]]]
    grouped: dict[str, list[tuple[float, float]]]
    elementwise: list[tuple[float, float]]
    operation_s: float
    fresh: float | None = None


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
        fresh=_fresh_rate(device) if device.type == "cpu" else None,
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
    """Bytes/s of a mixture of operations, of `moved` bytes where two tensors are read and one is made.

    Issuing them is left out.
    The tensors change in turn, so that most come from memory, as activations do in a step.
    """
    return _mixture_bytes(moved // 12) / max(
        seconds(_mixture(moved // 12, device), device, 0.5) - seconds(_mixture(64, device), device), 1e-9
    )


def _mixture(elements: int, device: torch.device) -> Callable[[], object]:
    width = 64
    rows = max(1, elements // width)
    num_pairs = max(2, min(64, _LIVE_BYTES // (8 * rows * width)))
    pairs = [tuple(torch.rand(rows, width, device=device) + 1 for _ in range(2)) for _ in range(num_pairs)]
    order = torch.randperm(rows, device=device)

    def work() -> None:
        for _ in range(_ROUNDS):
            a, b = pairs[0]
            pairs.append(pairs.pop(0))
            kept = (a * b, a + b, functional.silu(a), a.square(), a / b, a.sum(-1), a.index_select(0, order))
            del kept

    return work


def _mixture_bytes(elements: int) -> float:
    """Three tensors for the operations of two, two for those of one, one for the sum."""
    return float(_ROUNDS * 4 * elements * (3 + 3 + 2 + 2 + 3 + 1 + 2))


def _fresh_rate(device: torch.device) -> float:
    """Bytes/s of what the system asks for the pages of a tensor too large to be kept by the allocator."""
    kept = torch.zeros(_FRESH_BYTES // 4, device=device)
    fresh_s = seconds(lambda: torch.empty_like(kept).fill_(1.0), device)
    return _FRESH_BYTES / max(fresh_s - seconds(lambda: kept.fill_(1.0), device), 1e-6)


def _operation_s(device: torch.device) -> float:
    """Seconds to issue an operation with a view beside it, as in a model: a chain forward and backward."""
    x = torch.ones(2, 2, device=device, requires_grad=True)
    factor = torch.ones(2, 2, device=device)

    def work() -> None:
        y: Tensor = x
        for _ in range(_CHAIN):
            y = (y * factor).transpose(0, 1)
        y.sum().backward()

    return seconds(work, device) / (2 * _CHAIN)
