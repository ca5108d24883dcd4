"""Chunk of the head and the loss: from the device's memory and the output's share of the vocabulary."""

import pytest

from planner.counts.head_chunk import head_chunk_bytes, head_chunk_tokens
from tests.support.examples import plan

GIB = 2**30


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("h100-80gb", 80 * GIB // 64),
        ("{memory: 16 GiB, memory_bandwidth: 1 TB/s, peak: {bf16: 100 TFLOPS}}", GIB),
        ("{memory: 640 GiB, memory_bandwidth: 1 TB/s, peak: {bf16: 100 TFLOPS}}", 10 * GIB),
    ],
)
def test_a_gpu_has_a_64th_of_its_memory_and_a_gibibyte_at_least(gpu: str, expected: int) -> None:
    strategy = plan(f"cluster.gpu={gpu}").strategy
    assert head_chunk_bytes(strategy) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("memory", "expected"), [("1 GiB", 32), ("3 GiB", 48), ("64 GiB", 64)])
def test_a_cpu_has_32_to_64_mebibytes(memory: str, expected: int) -> None:
    cpu = f"{{name: cpu, memory: {memory}, memory_bandwidth: 20 GB/s, peak: {{fp32: 100 GFLOPS}}}}"
    strategy = plan(f"cluster.gpu={cpu}", "training.precision=fp32").strategy
    assert head_chunk_bytes(strategy) == expected * 2**20


def test_partners_of_an_odd_vocabulary_have_the_same_chunk() -> None:
    """Of 50,257 rows two ranks have 25,129 and 25,128: both count with the larger number."""
    strategy = plan("model.vocab_size=50257").strategy
    assert head_chunk_tokens(strategy, 2) == head_chunk_bytes(strategy) // (4 * 25129)


def test_a_chunk_has_128_tokens_at_least() -> None:
    cpu = ("cluster.gpu=cpu", "training.precision=fp32", "model.vocab_size=500000")
    assert head_chunk_tokens(plan(*cpu).strategy, 1) == 128
