"""The training step against other programs: report and bytes by hand, and all of it once, tiny."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from benchmarks.sent_bytes import SentBytes
from benchmarks.setting import Setting
from benchmarks.step import TINY
from benchmarks.step_report import Block, Row, paired_ratio
from tests.support.ranks import kept


def test_a_ratio_is_the_median_of_the_pairs_with_an_interval_around_it() -> None:
    """Rounds slow both alike: each pair says 2, but for one of 3 and one of 1."""
    ours = [1.0, 5.0, 1.0, 2.0, 1.0, 1.0, 4.0]
    theirs = [2.0, 10.0, 3.0, 4.0, 1.0, 2.0, 8.0]
    found = paired_ratio(theirs, ours)
    assert found.median == 2.0
    assert 1.0 <= found.low <= 2.0 <= found.high <= 3.0
    assert paired_ratio([6.0, 6.0], [2.0, 3.0, 1.0]).median == 2.5  # the third round has no pair


def block(experts: list[list[int]]) -> Block:
    return Block(
        routing="by hand",
        num_ranks=2,
        threads=1,
        precision="bf16",
        capacity_factor=None,
        gemm_rate=1.0,
        experts_TK=np.array(experts),
        setting=Setting(competitor="switchyard", shape=TINY, precision="bf16", num_ranks=2),
    )


def test_the_least_rows_are_each_token_once_for_each_other_rank() -> None:
    """Experts 0 to 3 are rank 0's.

    Of the first two tokens, which are its own, one needs rank 1, and of rank 1's one needs rank 0, for both
    its experts: 2 tokens / 2 ranks · 32 elements of 2 bytes · 4 ways · 2 layers.
    """
    assert block([[0, 1], [0, 7], [2, 3], [4, 6]]).least_row_bytes == 1 * 32 * 2 * 4 * 2


def test_figures_of_other_routes_are_refused() -> None:
    wrong = block([[0, 1], [0, 7], [2, 3], [4, 6]])
    wrong.rows = [Row(name="peer", counts=[])]
    with pytest.raises(RuntimeError, match="peer, by hand: routed"):
        wrong.check_routes()


def _send() -> tuple[int, int, int]:
    rows, gates = torch.zeros(3, 16), torch.zeros(3)
    rank = dist.get_rank()
    sent, received = ([2, 1], [2, 1]) if rank == 0 else ([1, 2], [1, 2])
    with SentBytes() as counted:
        dist.all_to_all_single(torch.empty_like(rows), rows, received, sent)
        dist.all_to_all_single(torch.empty_like(gates), gates, received, sent)
        dist.all_reduce(torch.zeros(10))
        dist.barrier()
    return counted.rows, counted.lists, counted.other


def test_bytes_are_those_that_leave_the_rank() -> None:
    """One row of 16 floats, one gate, and a ring's 2 · (2 - 1) / 2 times 10 floats."""
    assert kept(2).run(_send) == [(64, 4, 40), (64, 4, 40)]


def _bench(tmp_path: Path, *words: str) -> list[dict]:
    out = tmp_path / "bench.json"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.step", "--quick", "--out", str(out), *words],
        env=os.environ | {"DS_ACCELERATOR": "cpu"},  # whatever a test before this one has left there
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "tokens/s" in ran.stdout
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["versions"]["torch"] == torch.__version__
    return found["blocks"]


def _check(blocks: list[dict], ranks: int, dropless: set[str]) -> None:
    assert [b["routing"] for b in blocks] == ["balanced", "30 % hot", "all to one"] * 2
    for each in blocks:
        assert {row["name"] for row in each["rows"]} == (
            {"switchyard", "deepspeed"} if each["capacity_factor"] else dropless
        )
        for row in each["rows"]:
            assert np.isfinite(row["loss"])
            assert row["num_tokens"] == 32 * ranks
            assert row["peak_bytes"] > 0
        drops = [row["dropped_share"] for row in each["rows"]]
        if each["capacity_factor"] is None or each["routing"] == "balanced":
            assert drops == [0.0] * len(drops)
        if each["capacity_factor"] and each["routing"] == "all to one":
            # 32 tokens to one expert that takes ceil(1.25 · 2 · 32 / 8) = 10 of 64 routes: 22 are dropped.
            assert drops == pytest.approx([22 / 64, 22 / 64])


@pytest.mark.slow
def test_all_competitors_train_the_same_tokens_in_one_process(tmp_path: Path) -> None:
    blocks = _bench(tmp_path, "--ranks", "1", "--precision", "bf16")
    _check(blocks, 1, {"switchyard", "transformers", "transformers-zero", "deepspeed", "autoep"})


@pytest.mark.slow
def test_all_competitors_train_the_same_tokens_on_two_ranks(tmp_path: Path) -> None:
    blocks = _bench(tmp_path, "--ranks", "2", "--precision", "fp32")
    _check(blocks, 2, {"switchyard", "transformers-zero", "deepspeed", "autoep"})
    for each in blocks[:3]:
        rows = {row["name"]: row["sent_row_bytes"] for row in each["rows"]}
        assert each["least_row_bytes"] <= rows["switchyard"] <= rows["deepspeed"]


@pytest.mark.slow
def test_two_programs_take_turns_on_a_tiny_model(tmp_path: Path) -> None:
    blocks = _bench(tmp_path, "--ranks", "1", "--precision", "fp32", "--only", "transformers", "deepspeed")
    _check(blocks, 1, {"switchyard", "transformers", "deepspeed"})
