"""What the ranks of a competitor's world do: build, take forced experts, step, count, tell their memory.

Every function takes the state of its rank first (benchmarks.worlds).
"""

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from benchmarks.competitors import COMPETITORS
from benchmarks.sent_bytes import SentBytes
from benchmarks.setting import Setting

State = dict[str, Any]
_GEMM_ROUNDS, _GEMMS = 7, 8


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, from when all ranks begin to when all are done. cpu_s: this rank's processor time."""

    seconds: float
    cpu_s: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """rows_E: this rank's routes to each expert in one layer. dropped: share of the routes. The rest: bytes
    that this rank sent (SentBytes)."""

    rows_E: list[int]
    dropped: float
    row_bytes: int
    list_bytes: int
    other_bytes: int


def build(state: State, setting: Setting) -> None:
    """The competitor, in its world."""
    state["before_bytes"] = _status_bytes("VmRSS")
    state["competitor"] = COMPETITORS[setting.competitor](setting, state["rank"], state["device"])
    gc.collect()


def force(state: State, experts_TK: np.ndarray) -> None:
    """The experts of every token of the global batch; this rank takes its share."""
    mine = np.split(experts_TK, state["size"])[state["rank"]]
    state["competitor"].force(torch.from_numpy(np.ascontiguousarray(mine)).to(state["device"]))


def step(state: State) -> Step:
    gc.collect()  # not inside a step that is timed
    dist.barrier()
    _synchronize(state)
    began, cpu_began = time.perf_counter(), time.process_time()
    loss = state["competitor"].step()
    _synchronize(state)
    dist.barrier()
    return Step(seconds=time.perf_counter() - began, cpu_s=time.process_time() - cpu_began, loss=loss)


def count(state: State) -> Counts:
    with SentBytes() as sent:
        rows_E, dropped = state["competitor"].counted_step()
    return Counts(
        rows_E=rows_E,
        dropped=dropped,
        row_bytes=sent.rows,
        list_bytes=sent.lists,
        other_bytes=sent.other,
    )


def forget_peak(state: State) -> None:
    """Peak memory counts from here on."""
    if state["device"].type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


def peak_bytes(state: State) -> int:
    """The most memory since `forget_peak`, beyond what the process had before its model was built."""
    if state["device"].type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status_bytes("VmHWM") - int(state["before_bytes"])


def gemm_rate(state: State, precision: str, width: int) -> float:
    """This rank's part of the FLOP/s that all ranks reach together in large products; the best of several.

    Timed until the last rank is done: with more ranks than cores each is fast while others wait.
    """
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = (torch.randn(width, width, device=state["device"]).to(dtype) for _ in range(2))
    rates = []
    for _ in range(_GEMM_ROUNDS):
        dist.barrier()
        _synchronize(state)
        began = time.perf_counter()
        for _ in range(_GEMMS):
            product: Tensor = functional.linear(a, b)
        _synchronize(state)
        dist.barrier()
        rates.append(_GEMMS * 2 * width**3 / (time.perf_counter() - began))
        del product
    return max(rates)


def about_gpu(state: State) -> tuple[str, int] | None:
    """Name and bytes of the first GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(0), int(torch.cuda.get_device_properties(0).total_memory)


def profile_step(state: State) -> list[tuple[str, float]]:
    """Kernels of one step (operators on a CPU) and their shares of the device's time, the largest first."""
    is_gpu = state["device"].type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if is_gpu else []
    with torch.profiler.profile(activities=kinds) as profile:
        state["competitor"].step()
        _synchronize(state)
    times: dict[str, float] = {}
    for event in profile.key_averages():
        if not is_gpu:
            times[event.key] = float(event.self_cpu_time_total)
        elif event.device_type.name == "CUDA":  # the kernels, not who launched them
            times[event.key] = float(event.self_device_time_total)
    total = sum(times.values())
    return sorted(((name, t / total) for name, t in times.items()), key=lambda each: -each[1])[:20]


def _synchronize(state: State) -> None:
    if state["device"].type == "cuda":
        torch.cuda.synchronize()


def _status_bytes(name: str) -> int:
    """A field of this process's memory, Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
