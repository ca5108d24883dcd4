"""A layout in bf16 is no further from one process in bf16 than that is from one process in fp32."""

import pytest

from tests.support.matrix import Case, Layout, in_bf16
from tests.support.noise import beyond, distance_in_bf16, noise

LAYOUTS = (
    Layout(ep=4, tp=1, dp=1),
    Layout(ep=4, tp=2, dp=1),
    Layout(ep=2, tp=4, dp=1),
    Layout(ep=2, tp=2, dp=2),
)


@pytest.mark.parametrize(
    "case",
    [case for case in in_bf16() if case.layout in LAYOUTS and case.zero_stage != case.accumulation],
    ids=str,
)
def test_bf16_is_within_the_noise(case: Case) -> None:
    """Loss and norm of each of five steps, and the gradients of dense parameters, experts and routers."""
    assert beyond(distance_in_bf16(case.strategy), noise(case.strategy)) == {}


def test_the_noise_is_small() -> None:
    """So that being within it says something: a gradient of another training would be at 1 or more."""
    limits = noise(in_bf16()[0].strategy)
    assert limits["loss"] < 0.01
    assert limits["norm"] < 0.1
    assert all(limits[f"gradient of {family}"] < 0.5 for family in ("dense", "expert", "router"))
