"""The bench of one GPU, without one: its code at a tiny size on a CPU, and how many layers it takes."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.setting import Setting, plan_of
from planner.memory.fit import fullest_rank


def test_the_reference_fits_140_gb_and_is_cut_for_80() -> None:
    """16 layers of 64 experts of 2 · 1,024 · 2,048: 4.3 B parameters, at 16 bytes 69 GB."""
    assert gpu._fitting(gpu.REFERENCE, 139 * 2**30).num_layers == 16
    cut = gpu._fitting(gpu.REFERENCE, 50e9)
    assert 8 <= cut.num_layers <= 11  # 4.3 GB a layer
    setting = Setting(
        competitor="switchyard", shape=cut, precision="bf16", num_ranks=1, gpu=gpu._gpu(50 * 10**9)
    )
    assert fullest_rank(plan_of(setting)).peak_bytes <= 50e9
    with pytest.raises(SystemExit, match="not one layer fits into 1 GB"):
        gpu._fitting(gpu.QWEN3, 1e9)


@pytest.mark.slow
def test_every_competitor_is_measured_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    names = [row["competitor"] for row in rows]
    assert names == ["switchyard", *["switchyard", "transformers", "deepspeed", "autoep"] * 2]
    for row in rows:
        assert math.isfinite(row["loss"])
        assert 0 < row["mfu"] < 1
        assert row["kernels"][0][1] >= row["kernels"][-1][1] > 0
    assert "tokens/s" in capsys.readouterr().out


def test_without_a_gpu_it_says_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 1
    assert "--device cpu --tiny" in capsys.readouterr().err
