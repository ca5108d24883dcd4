"""Cost of computing a micro-batch twice: one more on its way through all stages, in one of so many steps."""

import pytest

from planner import Plan, build_plan, loads, predict
from planner.counts.flops import executed_flops
from planner.counts.replays import replays_per_step
from tests.support.examples import TEXT

ALWAYS = ("runtime.replay_every=1", "runtime.deterministic=true")


def _plan(*overrides: str) -> Plan:
    return build_plan(loads(TEXT, overrides))


@pytest.mark.parametrize(
    ("every", "saved", "expected"), [(1, 100, 1.0), (10, 100, 0.1), (100, 10, 0.1), (10, 15, 4 / 30)]
)
def test_of_thirty_steps_those_are_counted_that_are_replayed(every: int, saved: int, expected: float) -> None:
    plan = _plan(
        f"runtime.replay_every={every}", "runtime.deterministic=true", f"output.checkpoint_every={saved}"
    )
    assert replays_per_step(plan) == pytest.approx(expected)
    assert replays_per_step(_plan()) == 0


@pytest.mark.parametrize("layout", ["EP8_TP2_PP1_DP1", "EP8_TP2_PP2_DP1"])
def test_one_in_every_step_adds_a_micro_batch(layout: str) -> None:
    given = f"parallel={layout}"
    plain, twice = predict(_plan(given)), predict(_plan(given, *ALWAYS))
    busy = sum(stage.time.micro_batch.total_s for stage in plain.stages)
    added = twice.step_s - plain.step_s
    assert added >= busy * 0.999
    assert sum(twice.phases_s.values()) == pytest.approx(twice.step_s)
    assert twice.mfu == pytest.approx(plain.mfu * plain.step_s / twice.step_s), "no useful FLOPs"
    some = predict(_plan(given, "runtime.replay_every=100", "runtime.deterministic=true"))
    assert some.step_s - plain.step_s == pytest.approx(added / 100)


def test_hfu_counts_what_is_computed_twice() -> None:
    plain, twice = _plan(), _plan(*ALWAYS)
    micro_batches = plain.batch.accumulation
    assert executed_flops(twice).total == pytest.approx(
        executed_flops(plain).total * (micro_batches + 1) / micro_batches
    )
