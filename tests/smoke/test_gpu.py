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
