"""The batch identity, hosts and lookups of a plan."""

import pytest

from planner import StrategyError, build_plan
from planner.plan.notes import forced_routing_warning, list_notes
from tests.support.examples import plan, strategy

STAGED = ("parallel.placement=staged", "parallel.ep=64", "parallel.tp=2")


# micro_batch, accumulation, largest data-parallel size; from the specification of the reference
@pytest.mark.parametrize(
    ("overrides", "micro_batch", "accumulation", "widest"),
    [
        (("parallel=EP64_TP2",), 1, 4, 32),
        (STAGED, 1, 2, 64),
        ((*STAGED, "parallel.dp=2", "cluster.hosts=17"), 1, 1, 128),
        (("parallel=EP64_TP2", "training.micro_batch=4"), 4, 1, 32),
    ],
)
def test_batch_is_micro_batch_times_accumulation_times_width(
    overrides: tuple[str, ...], micro_batch: int, accumulation: int, widest: int
) -> None:
    built = plan(*overrides)
    assert (built.batch.micro_batch, built.batch.accumulation) == (micro_batch, accumulation)
    assert max(stage.data_parallel_size for stage in built.stages) == widest
    assert micro_batch * accumulation * widest == built.batch.global_batch == 128


def test_narrow_stages_take_proportionally_more() -> None:
    built = plan(*STAGED)
    assert [built.batch.micro_batch_of(stage) for stage in built.stages] == [64, 1, 64]


def test_staged_dp2_narrow_stages_take_64_each() -> None:
    built = plan(*STAGED, "parallel.dp=2", "cluster.hosts=17")
    assert [built.batch.micro_batch_of(stage) for stage in built.stages] == [64, 1, 64]


def test_68_ranks_fill_eight_hosts_and_half_of_the_ninth() -> None:
    built = plan(*STAGED, "cluster.spare_hosts=7")
    assert [len(host.ranks) for host in built.hosts] == [8] * 8 + [4]
    assert built.hosts[8].name == "host-08"
    assert built.hosts[8].ranks == (64, 65, 66, 67)
    assert built.host_of(63).name == "host-07"
    assert built.host_of(64).name == "host-08"


def test_short_host_comes_last() -> None:
    built = plan("cluster.hosts=[a slots=4, b slots=8]", "parallel=EP4_TP1_DP3", "training.global_batch=12")
    assert [(host.name, len(host.ranks)) for host in built.hosts] == [("b", 8), ("a", 4)]


def test_cpu_hosts_hold_any_number_of_processes() -> None:
    built = plan("cluster.gpu=cpu", "cluster.hosts=2", "cluster.gpus_per_host=2", "parallel=EP8")
    assert [host.ranks for host in built.hosts] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_one_host_is_localhost() -> None:
    assert plan("cluster.hosts=1").hosts[0].name == "localhost"


def test_stage_of_follows_the_rank_in_both_orders() -> None:
    assert plan(*STAGED).stage_of(2).name == "experts"
    compact = plan(*STAGED, "parallel.rank_order=compact")
    assert [compact.stage_of(rank).name for rank in (0, 63, 64, 66)] == [
        "experts",
        "experts",
        "embedding",
        "aggregation",
    ]


def test_rank_beyond_the_world_is_an_error() -> None:
    with pytest.raises(ValueError, match="rank 64 is not in the plan's world of 64"):
        plan("parallel=EP64_TP2").stage_of(64)


def test_build_plan_checks_strategies_made_in_code() -> None:
    legal = strategy("parallel.ep=4")
    broken = legal.model_copy(update={"parallel": legal.parallel.model_copy(update={"ep": 6})})
    with pytest.raises(StrategyError) as error:
        build_plan(broken)
    assert [problem.path for problem in error.value.problems] == ["parallel.ep"]


def test_a_forced_routing_is_a_warning() -> None:
    assert forced_routing_warning(strategy()) is None
    built = plan("runtime.force_routing={kind: hot_expert, share: 0.3}")
    said = forced_routing_warning(built.strategy)
    assert said is not None
    assert said.startswith("SW306 runtime.force_routing {kind: hot_expert, share: 0.3}: ")
    assert said in list_notes(built)
