"""Cost of comparing copies: twice in one of so many steps, for what has peers."""

import pytest

from planner import Plan, Prediction, build_plan, loads, predict
from planner.counts.replays import comparisons_per_step
from tests.support.examples import TEXT


def _plan(*overrides: str) -> Plan:
    return build_plan(loads(TEXT, overrides))


def _checks_s(prediction: Prediction) -> float:
    return max(stage.time.checks_s for stage in prediction.stages)


@pytest.mark.parametrize(("every", "saved", "expected"), [(1, 100, 2.0), (10, 100, 0.2), (10, 15, 8 / 30)])
def test_each_step_that_is_due_compares_twice(every: int, saved: int, expected: float) -> None:
    plan = _plan(f"runtime.check_replicas_every={every}", f"output.checkpoint_every={saved}")
    assert comparisons_per_step(plan) == pytest.approx(expected)


def test_a_step_is_longer_by_what_is_compared_in_it() -> None:
    keys = ("parallel=EP8_TP1_PP1_DP2", "output.checkpoint_every=1000")
    always, seldom = (predict(_plan(*keys, f"runtime.check_replicas_every={every}")) for every in (1, 1000))
    assert _checks_s(always) == pytest.approx(1000 * _checks_s(seldom))
    added = _checks_s(always) - _checks_s(seldom)
    assert added > 0
    assert always.step_s - seldom.step_s == pytest.approx(added)
    assert sum(always.phases_s.values()) == pytest.approx(always.step_s)


def test_a_rank_alone_compares_nothing_in_fp32() -> None:
    keys = (
        "parallel=EP1_TP1_PP1_DP1",
        "cluster.hosts=1",
        "cluster.gpus_per_host=1",
        "training.precision=fp32",
    )
    assert _checks_s(predict(_plan(*keys))) == 0
