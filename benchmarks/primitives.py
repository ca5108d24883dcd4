"""Times of a step's primitives on one device: GEMMs, attention, elementwise operations, issuing an op."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ROWS = 8  # a product of [8·d, d] × [d, d]: many tokens through a matrix, as in a model
_FRESH_BYTES = 64 * 2**20
_CHAIN = 64
_ROUNDS = 4  # how many turns of an operation are timed at once


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes measured on a kind of device.

    widths: of a GEMM. grouped: rows and width of one expert; num_groups: experts. attention: sequences,
    heads, their length and width. moved: bytes of one operation. live_bytes: of the tensors used in
    turn, more than a cache holds. kept_bytes: of results that are kept, as activations are until backward.
    """

    widths: tuple[int, ...]
    grouped: tuple[tuple[int, int], ...]
    num_groups: int
    attention: tuple[tuple[int, int, int, int], ...]
    moved: tuple[int, ...]
    live_bytes: int
    kept_bytes: int


SIZES = {
    "cpu": Sizes(
        widths=(16, 32, 64, 128, 256, 512),
        grouped=((6, 64), (24, 64), (96, 64), (96, 128), (256, 256)),
        num_groups=64,
        attention=((16, 4, 32, 16), (12, 4, 128, 16), (8, 4, 256, 32), (2, 4, 1024, 64)),
        # Each tensor stays below 32 MiB: what larger ones cost is `fresh`.
        moved=(12_000, 100_000, 400_000, 1_500_000, 6_000_000, 48_000_000),
        live_bytes=32 * 2**20,
        kept_bytes=64 * 2**20,
    ),
    "cuda": Sizes(
        widths=(64, 128, 256, 512, 1024, 2048, 4096),
        grouped=((64, 256), (256, 512), (512, 1024), (1024, 2048), (2048, 4096)),
        num_groups=16,
        attention=(
            (12, 4, 128, 16),
            (4, 16, 512, 64),
            (4, 16, 1024, 64),
            (4, 16, 2048, 64),
            (2, 16, 8192, 128),
        ),
        moved=(12_000, 400_000, 1_500_000, 6_000_000, 48_000_000, 400_000_000),
        live_bytes=512 * 2**20,
        kept_bytes=0,  # an allocator of its own hands the same memory out again, and its cache is small
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured rates.

    gemm, grouped: (cube root of m·n·k, FLOP/s). attention: (cube root of the causal mask's pairs times the
    width computed at once, FLOP/s). elementwise: (bytes moved, bytes/s). operation_s: issuing one operation,
    forward or backward. fresh: bytes/s of first touching memory, beyond writing it; None for a device whose
    allocator keeps it.
    """

    gemm: dict[str, list[tuple[float, float]]]
    grouped: dict[str, list[tuple[float, float]]]
    attention: dict[str, list[tuple[float, float]]]
    elementwise: list[tuple[float, float]]
    operation_s: float
    fresh: float | None = None

    @property
    def peaks(self) -> dict[str, float]:
        curves = (self.gemm, self.grouped, self.attention)
        return {p: max(rate for curve in curves for _, rate in curve.get(p, ())) for p in self.gemm}


def measure(device: torch.device) -> Rates:
    """All primitives; about half a minute on a CPU."""
    sizes = SIZES[device.type]
    gemm, grouped, attention = {}, {}, {}
    for precision, dtype in DTYPES.items():
        gemm[precision] = [(_size(_ROWS * d, d, d), _product_rate(d, dtype, device)) for d in sizes.widths]
        attention[precision] = [_attention_rate(*shape, dtype, device) for shape in sizes.attention]
        if device.type == "cpu" or dtype == torch.bfloat16:  # a GPU has one kernel for them in bf16 only
            grouped[precision] = [
                (_size(r, d, d), _grouped_rate(r, d, dtype, device)) for r, d in sizes.grouped
            ]
    return Rates(
        gemm=gemm,
        grouped=grouped,
        attention=attention,
        elementwise=[(float(moved), _moving_rate(moved, device)) for moved in sizes.moved],
        operation_s=_operation_s(device),
        fresh=_fresh_rate(device) if device.type == "cpu" else None,
    )


_PLAYED = 20  # in one graph: what starting it costs is shared


def device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The device time of `work`. On a GPU without launch overhead: it is captured as a CUDA graph once, and
    the graph is replayed."""
    if device.type == "cpu":
        return seconds(work, device)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_PLAYED):
            work()
    found = seconds(graph.replay, device) / _PLAYED
    graph.reset()
    torch.cuda.empty_cache()
    return found


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
    """FLOP/s of a GEMM and the two of its backward pass."""

    def tensors() -> list[Tensor]:
        return _random([(_ROWS * width, width), (width, width), (_ROWS * width, width)], dtype, device)

    work = _in_turn(tensors, functional.linear, device)
    return 3 * 2 * _ROWS * width**3 / device_seconds(work, device)


def _grouped_rate(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """The same for grouped GEMMs of experts with `rows` rows each."""
    groups = SIZES[device.type].num_groups
    ends = torch.arange(1, groups + 1, device=device, dtype=torch.int32) * rows

    def tensors() -> list[Tensor]:
        return _random(
            [(groups * rows, width), (groups, width, width), (groups * rows, width)], dtype, device
        )

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return functional.grouped_mm(x, weight.transpose(1, 2), offs=ends)

    work = _in_turn(tensors, product, device)
    return 3 * 2 * groups * rows * width**2 / device_seconds(work, device)


def _attention_rate(
    sequences: int, heads: int, length: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """The size of causal attention (gemm_time.attention_s) and its FLOP/s: two products forward, four
    backward, and the scores that backward makes again."""

    def tensors() -> list[Tensor]:
        return _random([(sequences, heads, length, width)] * 4, dtype, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    work = _in_turn(tensors, attend, device)
    pairs = length * (length + 1) / 2
    at_once = width if device.type == "cpu" else sequences * heads * width
    flops = 7 * 2 * pairs * sequences * heads * width
    return (pairs * at_once) ** (1 / 3), flops / device_seconds(work, device)


def _random(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]


def _in_turn(
    tensors: Callable[[], list[Tensor]], forward: Callable[..., Tensor], device: torch.device
) -> Callable[[], object]:
    """`forward` and its backward pass; the last of `tensors` is the gradient of the result.

    On a CPU tensors take turns, so that they come from memory, as weights and activations do in a step.
    """
    first = tensors()
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in first)
    live = SIZES[device.type].live_bytes if device.type == "cpu" else 0
    sets = [first, *(tensors() for _ in range(min(32, live // num_bytes)))]
    for each in sets:
        for tensor in each[:-1]:
            tensor.requires_grad_()

    def work() -> None:
        *inputs, gradient = sets[0]
        sets.append(sets.pop(0))
        torch.autograd.grad(forward(*inputs), inputs, gradient)

    return work


def _moving_rate(moved: int, device: torch.device) -> float:
    """Bytes/s of a mixture of operations, of `moved` bytes where two tensors are read and one is made.

    Issuing them is left out.
    """
    found = _mixture_bytes(moved // 12)
    work = _mixture(moved // 12, device)
    if device.type == "cuda":
        return found / device_seconds(work, device)
    issued = seconds(_mixture(64, device), device)
    return found / max(seconds(work, device, 0.5) - issued, 1e-9)


def _mixture(elements: int, device: torch.device) -> Callable[[], object]:
    """Tensors change in turn and, on a CPU, results stay for a while: most come from memory and go there."""
    sizes, width = SIZES[device.type], 64
    rows = max(1, elements // width)
    num_pairs = max(2, min(64, sizes.live_bytes // (8 * rows * width)))
    pairs = [tuple(torch.rand(rows, width, device=device) + 1 for _ in range(2)) for _ in range(num_pairs)]
    order = torch.randperm(rows, device=device)
    kept: deque[object] = deque(maxlen=max(1, min(64, sizes.kept_bytes // (24 * rows * width))))

    def work() -> None:
        for _ in range(_ROUNDS):
            a, b = pairs[0]
            pairs.append(pairs.pop(0))
            kept.append(
                (a * b, a + b, functional.silu(a), a.square(), a / b, a.sum(-1), a.index_select(0, order))
            )

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
