"""Device of a rank, its memory limit, and the process group of the world."""

import logging
import os
import resource
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import timedelta

import torch
import torch.distributed as dist

from model.float8 import device_has_kernel
from planner import Plan, Problem
from planner.plan.deterministic import deterministic_environment
from planner.plan.operator_env import read_environment
from runtime.process.identity import Identity

logger = logging.getLogger(__name__)

_KIB = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB on Linux


def device_problems(plan: Plan, identity: Identity) -> list[Problem]:
    """A Problem where this rank has no GPU although the strategy names one, or one whose FP8 would be
    emulated although the strategy refuses that."""
    if plan.strategy.cluster.gpu.is_cpu:
        return []
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if identity.local_rank < found:
        return list(_fp8_problems(plan, torch.device("cuda", identity.local_rank), identity))
    have = f"{found} GPU{'s' if found > 1 else ''}" if found else "no GPU"
    return [
        Problem(
            code="SW901",
            path="cluster.gpu",
            found=f"the strategy needs GPUs; {identity.host} has {have} for its ranks",
            expected="a GPU for each local rank",
            fix="train on hosts with enough GPUs, or set cluster.gpu=cpu to train on CPUs; "
            "`python -m launch plan` needs no GPU",
        )
    ]


def emulated_fp8(plan: Plan, device: torch.device) -> str:
    """Which products of training.precision fp8 this device computes in bf16; empty if none."""
    if plan.strategy.training.precision != "fp8":
        return ""
    if not device_has_kernel(device, grouped=False):
        return "all products"
    return "" if device_has_kernel(device, grouped=True) else "the experts' products"


def _fp8_problems(plan: Plan, device: torch.device, identity: Identity) -> Iterator[Problem]:
    emulated = emulated_fp8(plan, device)
    if emulated and plan.strategy.runtime.fp8_without_gpu == "refuse":
        yield Problem(
            code="SW903",
            path="runtime.fp8_without_gpu",
            found=f"refuse with training.precision fp8: torch {torch.__version__} has no FP8 kernel for "
            f"{emulated} on {identity.host}'s {torch.cuda.get_device_name(device)}",
            expected="emulate, or GPUs with row-wise FP8 kernels (sm_89 and newer; for experts sm_90)",
            fix="set runtime.fp8_without_gpu to emulate, or training.precision to bf16",
        )


def take_device(plan: Plan, identity: Identity, environ: Mapping[str, str] = os.environ) -> torch.device:
    """The CPU with OMP_NUM_THREADS threads, or the local rank's GPU with the memory limit set.

    The limit is the operator's (the smaller of MAX_MEMORY_PER_GPU and MEMORY_FRACTION), else the plan's. An
    allocation beyond it is torch's out-of-memory error, as on a smaller GPU.
    """
    is_cpu = plan.strategy.cluster.gpu.is_cpu
    device = torch.device("cpu") if is_cpu else torch.device("cuda", identity.local_rank)
    if identity.rank == 0 and (emulated := emulated_fp8(plan, device)):
        logger.warning("SW904 FP8 is emulated: %s are in bf16, on the same quantized values", emulated)
    if is_cpu:
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))
        return device
    use_deterministic_kernels(plan)
    torch.cuda.set_device(device)
    limit = read_environment(plan, environ).memory_limit_bytes
    total = torch.cuda.get_device_properties(device).total_memory
    if limit < total:
        torch.cuda.set_per_process_memory_fraction(limit / total, device)
    return device


def use_deterministic_kernels(plan: Plan, environ: MutableMapping[str, str] = os.environ) -> None:
    """On GPUs, where runtime.deterministic asks for it; before CUDA and NCCL read their environment.

    What has no deterministic kernel is torch's RuntimeError from then on (SW954).
    """
    variables = deterministic_environment(plan.strategy)
    for name, value in variables.items():
        environ.setdefault(name, value)
    if variables:
        torch.use_deterministic_algorithms(True)


def join_world(plan: Plan, identity: Identity, store: dist.Store, device: torch.device) -> None:
    """Makes the world's process group over the ranks' rendezvous store. Collective."""
    is_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_gpu else "gloo",
        store=dist.PrefixStore("world", store),
        rank=identity.rank,
        world_size=plan.world_size,
        timeout=timedelta(seconds=plan.strategy.launch.timeout),
        device_id=device if is_gpu else None,
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this rank: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def mean_over_world(value: float, device: torch.device) -> float:
    """Collective."""
    total = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def sum_over_world(value: int, device: torch.device) -> int:
    """Collective."""
    total = torch.tensor([value], dtype=torch.int64, device=device)
    dist.all_reduce(total)
    return int(total.item())
