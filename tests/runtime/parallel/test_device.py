"""GPU memory limit: the smallest limit is set. torch's GPU calls are replaced."""

from types import SimpleNamespace

import pytest
import torch

from planner import build_plan, load
from runtime.parallel.device import take_device
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
