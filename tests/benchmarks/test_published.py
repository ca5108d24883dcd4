"""Published runs: their own figures, and that predictions hold them."""

import pytest

from benchmarks.published import RUNS, compare
from planner import build_plan, loads
from planner.counts.flops import model_flops


def test_model_flops_are_those_of_the_published_run() -> None:
    """NeMo AutoModel: 12,040 tokens/s and 277 model TFLOPS of a GPU, 21.773 s a step."""
    plan = build_plan(loads(RUNS[0].strategy, []))
    step_s = 512 * 4096 / 8 / 12_040
    assert step_s == pytest.approx(21.773, rel=1e-3)
    assert model_flops(plan).total / 8 / step_s == pytest.approx(277e12, rel=5e-3)


def test_published_runs_are_held_by_the_fused_runtime_and_one_factor() -> None:
    factor, found = compare()
    assert 0.5 < factor < 1.5
    assert found[0].adjusted == pytest.approx(12_040, rel=1e-6)  # what the factor was fitted on
    assert [one.measured for one in found[:2]] == [12_040, (8_826 + 8_960) / 2]
    assert found[2].measured * found[2].tflops_per_token == pytest.approx(468)
    for one in found:
        slowest, fastest = one.bracket
        assert slowest <= one.measured <= fastest < one.roofline, one.name
        assert abs(one.error) <= 0.25, one.name
