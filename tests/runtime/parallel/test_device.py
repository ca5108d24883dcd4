"""GPU memory limit: the smallest limit is set. torch's GPU calls are replaced."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from planner import build_plan, load
from runtime.parallel.device import device_problems, take_device, use_deterministic_kernels
from runtime.process.identity import Identity
from runtime.process.launchers import Launcher

# 64 GB by the strategy, and limits.memory_max 64 GB.
STRATEGY = "ds_configs/ep64_tp2_staged.yaml"
IDENTITY = Identity(rank=5, local_rank=5, world_size=68, host="here", launcher=Launcher.TORCHRUN)


@pytest.mark.parametrize(
    ("environ", "total", "fraction"),
    [
        ({}, 80 * 10**9, 0.8),
        ({"MAX_MEMORY_PER_GPU": "16000000000"}, 80 * 10**9, 0.2),
        ({"MEMORY_FRACTION": "0.5"}, 80 * 10**9, 0.4),  # of the strategy's 64 GB
        ({"MAX_MEMORY_PER_GPU": "16000000000", "MEMORY_FRACTION": "0.5"}, 80 * 10**9, 0.2),
        ({"MAX_MEMORY_PER_GPU": "48000000000", "MEMORY_FRACTION": "0.5"}, 80 * 10**9, 0.4),
        ({}, 64 * 10**9, None),
        ({"MAX_MEMORY_PER_GPU": "16000000000"}, 12 * 10**9, None),
    ],
)
def test_the_smaller_limit_binds(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], total: int, fraction: float | None
) -> None:
    calls: dict[str, object] = {}
    monkeypatch.setattr("torch.cuda.set_device", lambda device: calls.update(device=device))
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=total)
    )
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction",
        lambda share, device: calls.update(share=pytest.approx(share), limited=device),
    )
    gpu = torch.device("cuda", 5)
    assert take_device(build_plan(load(STRATEGY)), IDENTITY, environ) == gpu
    expected = {"device": gpu} | ({} if fraction is None else {"share": fraction, "limited": gpu})
    assert calls == expected


def test_refused_emulation_is_a_problem_where_torch_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = "cluster.gpu=H100"
    plan = build_plan(load(STRATEGY, [gpu, "training.precision=fp8", "runtime.fp8_without_gpu=refuse"]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for dense, grouped, found in ((True, True, ""), (True, False, "experts"), (False, False, "all products")):
        kernels = {False: dense, True: grouped}
        monkeypatch.setattr(
            "runtime.parallel.device.device_has_kernel", lambda device, grouped, has=kernels: has[grouped]
        )
        problems = device_problems(plan, IDENTITY)
        assert [problem.code for problem in problems] == (["SW903"] if found else [])
        assert all(found in problem.found for problem in problems)


def test_emulation_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    plan = build_plan(load("ds_configs/tiny_cpu.yaml", ["training.precision=fp8"]))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for rank in (0, 1):
        take_device(plan, replace(IDENTITY, rank=rank, local_rank=rank), threads)
    assert [record.getMessage()[:26] for record in caplog.records] == ["SW904 FP8 is emulated: all"]


@pytest.mark.parametrize(
    ("gpu", "is_asked", "expected"), [("H100", True, True), ("H100", False, False), ("cpu", True, False)]
)
def test_deterministic_kernels_are_asked_for_on_gpus_and_the_shells_choice_wins(
    monkeypatch: pytest.MonkeyPatch, gpu: str, is_asked: bool, expected: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("torch.use_deterministic_algorithms", asked.append)
    path = STRATEGY if gpu != "cpu" else "ds_configs/tiny_cpu.yaml"
    overrides = ["cluster.gpu=H100"] if gpu != "cpu" else []
    plan = build_plan(load(path, [*overrides, f"runtime.deterministic={str(is_asked).lower()}"]))
    environ = {"NCCL_ALGO": "Tree"}
    use_deterministic_kernels(plan, environ)
    own = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "Tree", "NCCL_PROTO": "Simple"}
    assert environ == (own if expected else {"NCCL_ALGO": "Tree"})
    assert asked == ([True] if expected else [])
