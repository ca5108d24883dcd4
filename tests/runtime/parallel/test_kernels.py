"""Whether a host compiles fused kernels is known before any rank trains."""

from pathlib import Path

import pytest
import torch._inductor.config as inductor_config

from planner import build_plan, load
from runtime.parallel.kernels import fused_regions, kernel_problems
from runtime.process.identity import Identity
from runtime.process.launchers import Launcher

IDENTITY = Identity(rank=0, local_rank=0, world_size=4, host="host-03", launcher=Launcher.TORCHRUN)
# Widths that no other test compiles.
WIDTH = "model.hidden_size={}"


def plan_of(width: int, *overrides: str):
    return build_plan(
        load("ds_configs/tiny_cpu.yaml", [WIDTH.format(width), "model.head_dim=16", *overrides])
    )


def test_a_host_without_a_compiler_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fused = plan_of(56, "runtime.kernels=fused")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor_config.cpp, "cxx", ("no-such-compiler",))
    (problem,) = kernel_problems(fused, IDENTITY)
    assert (problem.code, problem.path) == ("SW905", "runtime.kernels")
    assert "host-03" in problem.found
    assert problem.fix == "set runtime.kernels to eager, or install g++ on every host"
    assert "no-such-compiler" in problem.found
    assert list(kernel_problems(plan_of(56), IDENTITY)) == []  # as the fix says


def test_eager_uses_no_region_and_fused_those_of_the_device() -> None:
    assert fused_regions(plan_of(64)) == frozenset()
    assert "norm" in fused_regions(plan_of(64, "runtime.kernels=fused"))
