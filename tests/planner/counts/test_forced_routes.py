"""Forced routing against the oracle that deals experts out one by one; its load counted token by token."""

import pytest

from planner import Plan, build_plan
from planner.counts.forced_load import plan_load
from planner.counts.forced_routes import forced_routes
from planner.counts.rank_workload import rank_workload
from planner.memory.fit import fullest_rank
from planner.prediction.predict import predict
from tests.support.examples import plan, strategy
from tests.support.forced_oracle import experts_of

KINDS = {
    "balanced": "{kind: balanced}",
    "hot_expert": "{kind: hot_expert, share: 0.3}",
    "all to one": "{kind: hot_expert, share: 1}",
    "hot_rank": "{kind: hot_rank, share: 0.3, ep: 4}",
    "spread": "{kind: spread, ep: 4}",
    "ragged": "{kind: ragged}",
    "empty_rank": "{kind: empty_rank, ep: 4}",
    "rotating": "{kind: rotating, share: 0.7}",
    "burst": "{kind: burst, share: 0.3}",
}
SMALL = ("model.num_experts=8", "training.seq_length=7", "training.global_batch=32")
LAYOUTS = {
    "ep4": ("parallel.ep=4", "training.micro_batch=2"),
    "dp2": ("parallel.ep=2", "parallel.dp=2"),
    "ep4-tp2": ("parallel.ep=4", "parallel.tp=2", "training.micro_batch=4"),
    "ep2-tp4": ("parallel.ep=2", "parallel.tp=4", "parallel.dp=2", "training.micro_batch=8"),
    "staged": ("parallel.placement=staged", "parallel.ep=4", "parallel.tp=2", "training.micro_batch=2"),
}


def small(kind: str, *overrides: str) -> Plan:
    return build_plan(strategy(*SMALL, f"runtime.force_routing={KINDS[kind]}", *overrides))


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_and_rows_equal_the_oracle(kind: str, top_k: int) -> None:
    s = small(kind, f"model.num_experts_per_tok={top_k}", "training.seed=5").strategy
    for step in (1, 2, 9):
        routes, expected = forced_routes(s, step), experts_of(s, step)
        assert routes is not None
        assert expected is not None
        assert [routes.experts_of(index) for index in range(len(expected))] == expected
        assert all(len(set(experts)) == top_k for experts in expected)
        for start, stop in ((0, 224), (0, 1), (13, 13), (5, 100), (100, 217)):
            dealt = [expert for experts in expected[start:stop] for expert in experts]
            assert routes.rows(start, stop) == [dealt.count(expert) for expert in range(8)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_load_equals_a_count_of_every_token(kind: str, layout: str) -> None:
    built = small(kind, *LAYOUTS[layout], "model.num_experts_per_tok=2")
    by_group = _count(built)
    load = plan_load(built)
    assert load is not None
    assert load.factor == pytest.approx(max(sum(factors) / len(factors) for factors in by_group), rel=1e-12)
    assert load.peak_factor == pytest.approx(max(max(factors) for factors in by_group), rel=1e-12)


def _count(built: Plan) -> list[list[float]]:
    """Rows of the fullest rank over the mean: for each EP group, of each micro-batch. Token by token."""
    stage = next(stage for stage in built.stages if stage.layers)
    assert stage.expert is not None
    seq_length, tp = built.strategy.training.seq_length, stage.dense.size("tp")
    ep, size = stage.expert.size("ep"), built.batch.micro_batch_of(stage)
    experts = experts_of(built.strategy, 1)
    assert experts is not None
    groups = stage.expert.groups("ep")
    counts = [[[0] * ep for _ in range(built.batch.accumulation)] for _ in groups]
    for index, chosen in enumerate(experts):
        sequence = index // seq_length
        micro, place = divmod(sequence, size * stage.dense.size("data"))
        data, place = divmod(place, size)
        token, num_tokens = place * seq_length + index % seq_length, size * seq_length
        bounds = [sum(num_tokens // tp + (t < num_tokens % tp) for t in range(p + 1)) for p in range(tp)]
        partner = next(p for p, bound in enumerate(bounds) if token < bound)
        rank = stage.dense.first_rank + data * tp + partner
        group = next(g for g, ranks in enumerate(groups) if rank in ranks)
        for expert in chosen:
            counts[group][micro][expert * ep // 8] += 1
    return [[max(ranks) * ep / sum(ranks) for ranks in group] for group in counts]


def test_hot_share_by_hand() -> None:
    """30 % of 128·1024 tokens to one of 64 experts, the rest over 63: with 8 ranks the fullest has
    0.3 + 7 · 0.7 / 63 of the tokens, 3.0222 times an eighth."""
    built = plan("parallel.ep=8", "runtime.force_routing={kind: hot_expert, share: 0.3}")
    load = plan_load(built)
    assert load is not None
    assert load.factor == pytest.approx(8 * (0.3 + 7 * 0.7 / 63), rel=1e-3)
    (stage,) = built.stages
    assert rank_workload(built, stage).received == pytest.approx(3.0222 * 1024, abs=2)
    assert predict(built).balance == pytest.approx(1 / 3.0222, rel=1e-3)


def test_forced_load_takes_the_place_of_balance() -> None:
    """All tokens to one rank of eight, once forced, once by a balance of 1/8."""
    forced = plan("parallel.ep=8", "runtime.force_routing={kind: hot_expert, share: 1}")
    assert predict(forced).step_s > 1.05 * predict(plan("parallel.ep=8")).step_s
    assert fullest_rank(forced).peak_bytes > fullest_rank(plan("parallel.ep=8")).peak_bytes
    assert any("runtime.force_routing" in line for line in predict(forced).assumptions)


def test_burst_fills_memory_in_some_micro_batches_only() -> None:
    built = plan("parallel.ep=8", "runtime.force_routing={kind: burst, share: 0.25}")
    load = plan_load(built)
    assert load is not None
    assert load.peak_factor == pytest.approx(8.0)  # a micro-batch of which all tokens have the hot expert
    # 4 of 16 micro-batches, in which one rank has all; in the others each of the other 63 experts has 1/63.
    assert load.factor == pytest.approx((4 * 8 + 12 * 8 * 8 / 63) / 16, rel=0.02)
    all_to_one = plan("parallel.ep=8", "runtime.force_routing={kind: hot_expert, share: 1}")
    assert fullest_rank(built).peak_bytes == fullest_rank(all_to_one).peak_bytes


def test_search_and_plan_agree_on_a_forced_load() -> None:
    from planner.hardware.catalog import device_of
    from planner.memory.memory_model import MemoryModel
    from planner.timing.time_model import TimeModel

    routing = "runtime.force_routing={kind: burst, share: 0.1}"  # of dp replicas one has more of it
    plans = [
        plan(routing, "parallel.ep=8", *more)
        for more in ((), ("training.micro_batch=4",), ("parallel.dp=2",), ("parallel.dp=2", "parallel.pp=2"))
    ]
    times, memory = TimeModel(device_of(plans[0].strategy.cluster.gpu)), MemoryModel()
    for built in plans:
        assert times.step(built).expected_s == pytest.approx(predict(built).step_s)
        assert memory.peak_bytes(built, 10**15) == fullest_rank(built).peak_bytes
