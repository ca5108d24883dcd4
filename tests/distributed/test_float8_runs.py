"""Whole FP8 runs in layouts are within the noise of one process whose input is changed by 3e-7."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.distributed.test_recompute import assert_same_bits
from tests.support.float8_noise import distance_of, in_one_process
from tests.support.layout import run_layout, run_relay
from tests.support.matrix import CUTS, Case, Layout
from tests.support.noise import beyond, distance_in, noise, spread
from tests.support.reference import Trajectory

LOSSES = {"top_k": 2, "balance_loss": 0.5, "z_loss": 0.05, "expert": "swiglu"}
EP4_TP2 = Case(layout=Layout(ep=4, tp=2, dp=1), **LOSSES)
CASES = (
    EP4_TP2,
    Case(layout=Layout(ep=2, tp=4, dp=1), zero_stage=0, accumulation=2, **LOSSES),
    Case(layout=CUTS[3], accumulation=2, **LOSSES),
)
REST = (
    Case(layout=Layout(ep=2, tp=2, dp=2), shared_experts=1, dense_layers=1, **LOSSES),
    Case(layout=Layout(ep=8, tp=1, dp=1), tokens="odd", vocabulary="odd", **LOSSES),
    Case(layout=CUTS[2], qk_norm="projection", **LOSSES),
    Case(layout=Layout(ep=4, tp=2, dp=1), dispatch="capacity", is_padded=False, **LOSSES),
)


@cache
def _in_one_process(case: Case) -> tuple[Trajectory, dict[str, float]]:
    return in_one_process(case.reference)


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in REST)], ids=str
)
def test_a_layout_is_within_the_noise_of_one_process(case: Case) -> None:
    expected, limits = _in_one_process(case)
    assert beyond(distance_of(case.strategy, expected), limits) == {}


def test_the_noise_is_far_below_what_fp8_changes() -> None:
    """So that being within it says something: the same layout without FP8 is outside."""
    expected, limits = _in_one_process(EP4_TP2)
    assert limits["loss"] < 1e-3
    assert all(limits[f"gradient of {family}"] < 0.1 for family in ("dense", "expert", "router"))
    without = spread(run_layout(EP4_TP2.strategy), expected)
    assert beyond(without, limits).keys() >= {"loss", "gradient of dense", "gradient of expert"}


@pytest.mark.parametrize(
    "case",
    [
        Case(layout=Layout(ep=4, tp=2, dp=1), zero_stage=1, accumulation=2, precision="fp8", **LOSSES),
        pytest.param(
            Case(layout=Layout(ep=2, tp=2, dp=2), zero_stage=2, precision="fp8", **LOSSES),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Case(layout=CUTS[3], zero_stage=2, accumulation=2, precision="fp8", **LOSSES),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_precision_fp8_is_no_further_from_one_process_than_that_is_from_fp32(case: Case) -> None:
    """bf16 weights and activations, as training.precision fp8 trains; sums in bf16 add their noise."""
    assert beyond(distance_in("fp8", case.strategy), noise(case.strategy, "fp8")) == {}


IN_FP8 = Case(layout=Layout(ep=4, tp=2, dp=1), zero_stage=2, accumulation=2, precision="fp8", **LOSSES)


@pytest.mark.parametrize("recompute", ["layer", "attention", "experts"])
def test_what_is_recomputed_has_the_same_bits(recompute: str) -> None:
    assert_same_bits(replace(IN_FP8, recompute=recompute).strategy)


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    straight = run_layout(IN_FP8.strategy)
    relayed = run_relay(IN_FP8.strategy, IN_FP8.strategy, folder=tmp_path, at=(2,))
    assert (relayed.losses, relayed.norms) == (straight.losses, straight.norms)
    assert relayed.final.keys() == straight.final.keys()
    assert all(torch.equal(relayed.final[key], straight.final[key]) for key in straight.final)
