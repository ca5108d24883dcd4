"""One GPU with NCCL, where there is one: the same training as on a CPU. `make test` skips it elsewhere."""

import json
from pathlib import Path

import pynvml
import pytest

from tests.support.launching import Launch


def num_gpus() -> int:
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0


pytestmark = pytest.mark.skipif(num_gpus() == 0, reason="no NVIDIA GPU")

ALONE = ("parallel={ep: 1, tp: 1, zero_stage: 1}", "cluster.gpus_per_host=1")
ON_GPU = (
    "cluster.gpu={memory: 16 GB, memory_bandwidth: 500 GB/s, peak: {fp32: 10 TFLOPS, bf16: 100 TFLOPS}}",
    "limits.memory_max=8 GB",
)


def trained(folder: Path, *overrides: str, accelerator: str) -> list[dict]:
    folder.mkdir()
    launch = Launch(folder)
    code, told = launch.train(*ALONE, *overrides, ranks=1, env={"DS_ACCELERATOR": accelerator})
    assert code == 0, told
    assert (launch.run / "done.json").is_file(), told
    return [json.loads(line) for line in (launch.run / "telemetry.jsonl").read_text().splitlines()]


def test_a_gpu_trains_what_a_cpu_trains(tmp_path: Path) -> None:
    on_cpu = trained(tmp_path / "cpu", accelerator="cpu")
    on_gpu = trained(tmp_path / "gpu", *ON_GPU, accelerator="cuda")
    assert [step["loss"] for step in on_gpu] == pytest.approx([step["loss"] for step in on_cpu], rel=1e-4)
    assert on_gpu[0]["grad_norm"] == pytest.approx(on_cpu[0]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_bf16_on_a_gpu_learns_as_fp32_does(tmp_path: Path, zero_stage: int) -> None:
    fp32 = trained(tmp_path / "fp32", *ON_GPU, accelerator="cuda")
    overrides = (*ON_GPU, "training.precision=bf16", f"parallel.zero_stage={zero_stage}")
    bf16 = trained(tmp_path / "bf16", *overrides, accelerator="cuda")
    assert bf16[-1]["loss"] == pytest.approx(fp32[-1]["loss"], abs=0.05)
    assert bf16[-1]["loss"] < bf16[0]["loss"] - 0.1
    # Phases are the stream's: forward and backward are where its time goes, and all of it is somewhere.
    phases = bf16[-1]["phases_s"]
    assert sum(phases.values()) == pytest.approx(bf16[-1]["step_s"])
    assert phases["compute"] > 0.3 * bf16[-1]["step_s"]


@pytest.mark.parametrize("num_experts", [None, 3], ids=["linear", "experts"])
def test_fp8_products_on_a_gpu_are_those_of_a_cpu(num_experts: int | None) -> None:
    """By FP8 kernels where the GPU has them; sums of 256 products differ by their order and by bf16."""
    import torch

    from model.float8 import float8_product
    from model.products import ExpertRows

    torch.manual_seed(1)
    shape = (64, 256) if num_experts is None else (num_experts, 64, 256)
    counts = None if num_experts is None else torch.tensor([40, 0, 8])
    tensors = [torch.randn(48, 256), torch.randn(shape), torch.randn(48, 64)]
    results = []
    for device in ("cpu", "cuda"):
        x, weight, grad = (tensor.to(device, torch.bfloat16) for tensor in tensors)
        x.requires_grad_(), weight.requires_grad_()
        y = float8_product(x, weight, None if counts is None else ExpertRows.of(counts.to(device)))
        y.backward(grad)
        results.append([part.detach().cpu().double() for part in (y, x.grad, weight.grad)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert (on_gpu - on_cpu).norm() < 0.01 * on_cpu.norm()


def test_fp8_on_a_gpu_learns_as_bf16_does(tmp_path: Path) -> None:
    bf16, fp8 = (
        trained(tmp_path / precision, *ON_GPU, f"training.precision={precision}", accelerator="cuda")
        for precision in ("bf16", "fp8")
    )
    assert fp8[-1]["loss"] == pytest.approx(bf16[-1]["loss"], abs=0.05)
    assert fp8[-1]["loss"] < fp8[0]["loss"] - 0.1
