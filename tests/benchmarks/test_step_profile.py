"""Where the time of a step is: what operators are charged, and the shares by hand."""

import pytest
import torch

from benchmarks.step_profile import KINDS, OTHER, PYTHON, OperatorTimes, Profile


def test_operators_of_both_passes_are_charged_by_name() -> None:
    x, weight = torch.ones(3, 4), torch.ones(4, 5, requires_grad=True)
    with OperatorTimes() as times:
        (x @ weight).exp().sum().backward()
    assert {"mm", "exp", "sum", "mul"} <= set(times.seconds)
    assert all(seconds >= 0 for seconds in times.seconds.values())


def test_shares_are_of_the_step_and_add_up_to_it() -> None:
    """Of 10 s: 2 + 1 in other products, 4 in AdamW, 1 in what has no kind, and 2 in no operator."""
    shares = Profile(
        step_s=10.0, operator_s={"mm": 2.0, "bmm": 1.0, "_fused_adamw_": 4.0, "exp": 1.0}
    ).shares()
    expected = {"other matrix products": 0.3, "AdamW": 0.4, OTHER: 0.1, PYTHON: 0.2}
    assert {kind: share for kind, share in shares.items() if share} == pytest.approx(expected)
    assert set(shares) == {*KINDS, OTHER, PYTHON}
