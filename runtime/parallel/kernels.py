"""Fused kernels of a rank (runtime.kernels): whether its host can compile them, and which its device uses."""

import logging
import time
from collections.abc import Iterator

import torch

from model.fused import REGIONS, RegionName
from model.norm import norm_region
from planner import Plan, Problem
from runtime.process.identity import Identity

logger = logging.getLogger(__name__)

_NEEDED = {
    "cpu": ("a C++ compiler (g++)", "install g++ on every host"),
    "cuda": ("Triton for this torch, and a C compiler", "install triton and gcc on every host"),
}


def kernel_problems(plan: Plan, identity: Identity) -> Iterator[Problem]:
    """A Problem where the strategy asks for fused kernels and this rank's host compiles none.

    One of the model's own kernels is compiled to find out; it is then in torch's cache. Of a host's ranks one
    compiles and the others wait for it.
    """
    strategy = plan.strategy
    if strategy.runtime.kernels != "fused":
        return
    is_cpu = strategy.cluster.gpu.is_cpu
    device = torch.device("cpu") if is_cpu else torch.device("cuda", identity.local_rank)
    dtype = torch.float32 if strategy.training.precision == "fp32" else torch.bfloat16
    weight = torch.ones(strategy.model.hidden_size, dtype=dtype, device=device)
    begin = time.monotonic()
    try:
        norm_region(strategy.model.rms_norm_eps).forward.prepare(weight[None], weight)
    except Exception as error:  # of torch, of the compiler, of the cache's file system: there are many kinds
        needed, fix = _NEEDED[device.type]
        yield Problem(
            code="SW905",
            path="runtime.kernels",
            found=f"fused, but torch {torch.__version__} compiles no kernel on {identity.host}: "
            f"{_first_line(error)}",
            expected=f"eager, or on every host {needed}",
            fix=f"set runtime.kernels to eager, or {fix}",
        )
        return
    if identity.rank == 0:
        regions = ", ".join(sorted(fused_regions(plan)))
        logger.info("fused kernels: %s; the first took %.1f s", regions, time.monotonic() - begin)


def fused_regions(plan: Plan) -> frozenset[RegionName]:
    """What this plan's ranks compute by kernels of their own; nothing with runtime.kernels eager."""
    if plan.strategy.runtime.kernels != "fused":
        return frozenset()
    return REGIONS["cpu" if plan.strategy.cluster.gpu.is_cpu else "cuda"]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
