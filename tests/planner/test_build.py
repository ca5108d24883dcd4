"""What null leaves to the planner: gradients are reduced once a step where their fp32 sums fit the memory."""

import pytest

from planner import Plan
from planner.build import choose_reduce
from planner.memory.fit import fits, fullest_rank
from planner.prediction.assumptions import runtime_predicted
from planner.search.search import search
from tests.support.examples import plan, strategy

ACCUMULATED = ("parallel={ep: 8, zero_stage: 1}", "training.micro_batch=1")


def _limit_between() -> str:
    """A memory limit that holds the plan with frequent reductions, and not its sums."""
    sizes = [
        fullest_rank(plan(*ACCUMULATED, f"runtime.reduce={reduce}")).peak_bytes
        for reduce in ("once", "every_micro_batch")
    ]
    assert sizes[0] > sizes[1]
    return f"limits.memory_max={sum(sizes) // 2} B"


def test_once_is_chosen_where_it_fits() -> None:
    built = plan(*ACCUMULATED)
    assert built.batch.accumulation > 1
    assert built.reduce == "once"
    assert "reduced once a step, in bf16" in runtime_predicted(built)


def test_every_micro_batch_is_chosen_where_sums_do_not_fit() -> None:
    built = plan(*ACCUMULATED, _limit_between())
    assert built.reduce == "every_micro_batch"
    assert fits(built)
    assert "reduced after every micro-batch" in runtime_predicted(built)


def test_what_is_written_is_kept() -> None:
    built = plan(*ACCUMULATED, _limit_between(), "runtime.reduce=once")
    assert built.reduce == "once"
    assert choose_reduce(built) is built
    assert not fits(built)


@pytest.mark.parametrize(
    "overrides", [("training.micro_batch=16", "parallel={ep: 8}"), ("training.precision=fp32",)]
)
def test_without_sums_there_is_nothing_to_choose(overrides: tuple[str, ...]) -> None:
    """One micro-batch; and fp32 under ZeRO 1, where DeepSpeed keeps gradients anyway."""
    tight = plan("limits.memory_max=1 GB", *overrides)
    assert tight.reduce == "once"


def test_a_search_tries_both_and_its_rows_are_the_plans_of_their_strategies() -> None:
    found = search(strategy(*ACCUMULATED, _limit_between()))
    ways = {row.plan.reduce for row in found.rows}
    assert ways == {"once", "every_micro_batch"}
    for row in found.rows[:: max(1, len(found.rows) // 60)]:
        rebuilt = choose_reduce(Plan(strategy=row.strategy))
        assert rebuilt.reduce == row.plan.reduce
        assert fullest_rank(rebuilt).peak_bytes == row.peak_bytes <= row.limit_bytes
