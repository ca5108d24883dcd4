"""What must hold for every strategy, over thousands of random ones: a Problem or an answer, never a crash."""

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner import Plan, Problem, Strategy, StrategyError, build_plan
from planner.audit.audit import audit
from planner.memory.rank_memory import fullest_ranks
from planner.prediction.predict import predict, predicted_phases
from planner.report.audit_report import audit_dict
from planner.search.fallback import scaling_options
from planner.search.search import search
from planner.strategy.recompute import Recompute
from tests.support.examples import strategy

# Half of the values are odd on purpose: most strategies are illegal in one way or another.
DEGREES = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 8])
CHANGES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cluster": {
        "gpus_per_host": st.sampled_from([1, 3, 8]),
        "spare_hosts": st.sampled_from([0, 0, 0, 1, 16]),
    },
    "model": {
        "num_hidden_layers": st.sampled_from([1, 2, 5, 16]),
        "num_experts": st.sampled_from([2, 8, 12, 64]),
        "num_experts_per_tok": st.sampled_from([1, 1, 2, 3]),
        "hidden_size": st.sampled_from([64, 96, 1024]),
        "moe_intermediate_size": st.sampled_from([32, 100, 2048]),
        "num_shared_experts": st.sampled_from([0, 0, 1]),
        "expert": st.sampled_from(["mlp", "swiglu"]),
        "num_attention_heads": st.sampled_from([4, 8, 16]),
        "num_key_value_heads": st.sampled_from([2, 4]),
        "head_dim": st.sampled_from([16, 64]),
        "qk_norm": st.sampled_from(["none", "head", "projection"]),
        "vocab_size": st.sampled_from([17, 1000, 4096]),
        "aggregation": st.sampled_from(["linear", "none"]),
        "dispatch": st.sampled_from(["dropless", "dropless", "deepspeed"]),
    },
    "parallel": {
        "placement": st.sampled_from(["colocated", "staged"]),
        "ep": DEGREES,
        "tp": DEGREES,
        "pp": st.sampled_from([1, 1, 2, 3]),
        "layers_per_stage": st.sampled_from([None, None, None, (15, 1), (1, 1), (3, 2), (2, 10, 4)]),
        "dp": st.sampled_from([1, 1, 2, 3]),
        "zero_stage": st.sampled_from([0, 1, 1, 2]),
        "rank_order": st.sampled_from(["document", "document", "compact"]),
    },
    "training": {
        "precision": st.sampled_from(["fp32", "bf16", "fp8"]),
        "global_batch": st.sampled_from([24, 96, 192, 7]),
        "micro_batch": st.sampled_from([1, 1, 2, 3]),
        "seq_length": st.sampled_from([16, 128]),
    },
    "runtime": {
        "recompute": st.sampled_from(
            [*map(Recompute, ("none", "layer", "attention", "experts")), Recompute("layer", 1)]
        ),
        "all_to_all": st.sampled_from(["flat", "hierarchical"]),
        "fp8_payload": st.booleans(),
    },
}
SECTIONS = st.fixed_dictionaries({name: st.fixed_dictionaries(keys) for name, keys in CHANGES.items()})
GPUS = st.sampled_from(["H100", "A100-80GB", "cpu", "unnamed"])
Sections = dict[str, dict[str, Any]]


@lru_cache(maxsize=8)
def _with_gpu(gpu: str) -> Strategy:
    return strategy() if gpu == "unnamed" else strategy(f"cluster.gpu={gpu}", "training.precision=fp32")


def changed(sections: Sections, gpu: str = "unnamed") -> Strategy:
    """A strategy made in code, unchecked: build_plan applies the rules."""
    base = _with_gpu(gpu)
    update = {name: getattr(base, name).model_copy(update=keys) for name, keys in sections.items()}
    return base.model_copy(update=update)


def planned(s: Strategy) -> tuple[Plan | None, tuple[Problem, ...]]:
    """The plan, or the Problems that there are instead."""
    try:
        return build_plan(s), ()
    except StrategyError as error:
        return None, error.problems


def legal(sections: Sections, **parallel: object) -> Plan | None:
    """The plan of a strategy with other degrees; None if it is illegal."""
    return planned(changed({**sections, "parallel": {**sections["parallel"], **parallel}}))[0]


def forward_flops(s: Strategy) -> tuple[int, int]:
    """Of one token, by hand: in one layer, and in the output. Two for each active weight, and causal scores.

    Attention: q, k, v, o; (S + 1)/2 pairs on average, two products of 2 · heads · head_dim each.
    """
    m, n = s.model, s.training.seq_length
    heads, kv, width = m.num_attention_heads, m.num_key_value_heads, m.head_dim
    projections = m.hidden_size * width * (2 * heads + 2 * kv)
    matrices = 3 if m.expert == "swiglu" else 2
    experts = (
        (m.num_experts_per_tok + m.num_shared_experts) * matrices * m.hidden_size * m.moe_intermediate_size
    )
    router = m.num_experts * m.hidden_size
    layer = 2 * (projections + experts + router) + 2 * heads * width * (n + 1)
    square = m.hidden_size**2 if m.aggregation == "linear" else 0
    return layer, 2 * (square + m.vocab_size * m.hidden_size)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(SECTIONS, GPUS)
def test_a_strategy_is_a_problem_or_a_plan_whose_numbers_hold_together(sections: Sections, gpu: str) -> None:
    s = changed(sections, gpu)
    built, problems = planned(s)
    assert (built is None) == bool(problems)
    assert all(problem.found and problem.expected and problem.fix for problem in problems)
    if built is None:
        return
    # Rank tables partition the world, and hosts hold each rank once.
    ranks = sorted(rank for stage in built.stages for rank in stage.ranks)
    assert ranks == list(range(built.world_size)) == [rank for host in built.hosts for rank in host.ranks]
    for stage in built.stages:
        for grid in (stage.dense, stage.expert):
            for axis in () if grid is None else grid.axes:
                members = sorted(rank for group in grid.groups(axis) for rank in group)
                assert members == list(stage.ranks)
    assert [layer for stage in built.stages for layer in stage.layers] == list(
        range(s.model.num_hidden_layers)
    )
    # Every sequence of the global batch is seen once by each stage.
    for stage in built.stages:
        seen = built.batch.micro_batch_of(stage) * built.batch.accumulation * stage.data_parallel_size
        assert seen == s.training.global_batch
    # Time never falls below the compute floor: the FLOPs of a stage over all its ranks' peak.
    prediction = predict(built)
    bracket = prediction.bracket
    assert 0 < bracket.full_overlap_s <= bracket.expected_s * (1 + 1e-9)
    assert bracket.expected_s <= bracket.no_overlap_s * (1 + 1e-9)
    peak = max(prediction.device.peak.values())
    tokens = s.training.global_batch * s.training.seq_length
    layer, output = forward_flops(s)
    for stage in built.stages:
        flops = 3 * tokens * (layer * len(stage.layers) + output * stage.contents.output)
        assert bracket.full_overlap_s >= flops / peak / len(stage.ranks) * (1 - 1e-9), stage.name
    for one in prediction.stages:
        assert sum(one.phases.phases_s.values()) == pytest.approx(bracket.expected_s)
        assert min(one.phases.phases_s.values()) >= 0
        assert 0 <= one.utilization + one.communication_share <= 1 + 1e-9
    assert sum(prediction.mean_phases_s.values()) == pytest.approx(bracket.expected_s)
    assert predicted_phases(built, built.world_size - 1)["step_s"] == bracket.expected_s
    for memory in fullest_ranks(built):
        assert all(count >= 0 for _, count in memory.by_cause)
        assert memory.peak_bytes >= memory.static_bytes > 0


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(SECTIONS, st.sampled_from(["dp", "ep", "pp", "zero_stage"]))
def test_state_falls_or_stays_when_sharding_rises(sections: Sections, key: str) -> None:
    """State of the fullest rank, at twice the degree or with ZeRO 2 for 1. A partition is rounded up to two
    elements of 16 bytes in each of at most four groups. From ZeRO 0, without masters, it may rise."""
    now = sections["parallel"][key]
    if key == "zero_stage":
        sections = {**sections, "parallel": {**sections["parallel"], "zero_stage": 1}}
        now = 1
    sections["cluster"] = {"gpus_per_host": 8, "spare_hosts": 0}
    before, after = legal(sections), legal(sections, **{key: 2 * now})
    assume(before is not None and after is not None)
    assert before is not None
    assert after is not None
    most, least = (max(memory.static_bytes for memory in fullest_ranks(built)) for built in (before, after))
    assert least <= most + 4 * 2 * 16


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(SECTIONS, GPUS)
def test_search_fallback_and_audit_answer_for_any_legal_strategy(sections: Sections, gpu: str) -> None:
    sections["model"]["num_hidden_layers"] = min(2, sections["model"]["num_hidden_layers"])
    base = changed(sections, gpu)
    built, _ = planned(base)
    if built is None:
        return
    found = search(base)
    assert found.num_too_large >= 0
    for row in (*found.rows[:3], *found.pareto[:3]):
        chosen = build_plan(row.strategy)
        assert chosen.world_size == row.gpus <= found.num_gpus
        assert predict(chosen).step_s == pytest.approx(row.step_s, rel=1e-9)
    options = scaling_options(base)
    assert all(option.is_possible == (option.why_not is None) for option in options)
    assert audit_dict(built, audit(built, predict(built)))["checks"]
