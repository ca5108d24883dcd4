"""Claims about a changed strategy: any quantity, any override, old names; and what cannot be read of them."""

from collections.abc import Mapping
from typing import Any

import pytest

from planner import Strategy, StrategyError, build_plan, loads
from planner.audit.audit import Finding, audit
from planner.audit.verdicts import FAILS, HOLDS, IMPOSSIBLE
from planner.prediction.predict import predict
from planner.report.audit_report import audit_dict, old_quantity_notes
from planner.search.search import search
from planner.strategy.claims import Claim
from planner.strategy.field_types import AS_TEXT
from planner.yaml12_writer import sections_yaml
from tests.support.examples import TEXT, strategy


def claim(quantity: str, value: float, changes: Mapping[str, Any] | None = None, **more: Any) -> Claim:
    return Claim.model_validate(
        {"quantity": quantity, "value": value, "where": "here", "with": changes or {}, **more}
    )


def found(given: Strategy, *claims: Claim) -> tuple[Finding, ...]:
    plan = build_plan(given.model_copy(update={"claims": claims}))
    return audit(plan, predict(plan)).findings


# 16 hosts of 8 GPUs; ep 8.
GIVEN = ("parallel.ep=8",)


def test_a_quantity_is_that_of_the_changed_plan() -> None:
    tokens, experts, peak = found(
        strategy(*GIVEN),
        claim("tokens_per_batch", 256 * 1024, {"training.global_batch": 256}),
        claim("experts_per_gpu", 4, {"parallel.ep": 16, "training.global_batch": 64}),
        claim("gpu_peak", 800e12, {"cluster.gpu.peak": {"bf16": "800 TFLOPS"}}),
    )
    assert (tokens.verdict, experts.verdict, peak.verdict) == (HOLDS, HOLDS, HOLDS)
    assert found(strategy(*GIVEN), claim("tokens_per_batch", 256 * 1024))[0].verdict == FAILS


def test_a_prediction_is_that_of_the_changed_plan() -> None:
    """Within the digits of what is stated, which is what a plan of the changed file is predicted at."""
    changed = strategy(*GIVEN, "cluster.links.inter_host=1000 Gbps", "training.micro_batch=4")
    stated = predict(build_plan(changed)).tokens_per_s
    changes = {"cluster.links.inter_host": "1000 Gbps", "training.micro_batch": 4}
    (one,) = found(strategy(*GIVEN), claim("tokens_per_second", stated, changes))
    (derived,) = [d for d in one.derivations if d.of == "in training"]
    assert derived.value == pytest.approx(stated)


def test_a_document_is_held_against_what_it_says_of_the_same_change() -> None:
    changes = {"training.global_batch": 256}
    rate, other = claim("batches_per_second", 3, changes), claim("batches_per_second", 80)
    batch = claim("tokens_per_batch", 1000, changes)
    _, _, _, tokens = found(strategy(*GIVEN), other, rate, batch, claim("tokens_per_second", 1, changes))
    own = next(d for d in tokens.derivations if d.of == "by its own figures")
    assert own.value == 3000


def test_a_change_that_is_not_legal_holds_for_nothing_and_says_why() -> None:
    latency, gpus = (claim(name, 1, {"parallel.ep": 48}) for name in ("forward_latency", "gpus"))
    for one in found(strategy(*GIVEN), latency, gpus):
        assert one.verdict == FAILS
        assert one.derived.value is None
        assert "not legal: parallel.ep" in one.derived.arithmetic


def test_a_change_beyond_the_cluster_cannot_be_met() -> None:
    """32 copies of 8 ranks are 256 of 128 GPUs."""
    changes = {"parallel.dp": 32, "training.global_batch": 256}
    latency, exact, most = found(
        strategy(*GIVEN),
        claim("forward_latency", 1, changes),
        claim("gpus", 256, changes),
        claim("gpus", 128, changes, relation="at_most"),
    )
    assert (latency.verdict, exact.verdict, most.verdict) == (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE)
    assert exact.derived.value == 256
    assert "needs more GPUs" in latency.reason


def test_a_change_may_use_spare_hosts() -> None:
    """16 ranks on two hosts, of which one is a spare of the strategy as it is."""
    given = strategy(*GIVEN, "cluster.hosts=2", "cluster.spare_hosts=1")
    (one,) = found(given, claim("experts_per_gpu", 4, {"parallel.ep": 16}))
    assert one.verdict == HOLDS


def test_the_relation_that_is_written_replaces_the_quantitys_own() -> None:
    def verdict(value: int, relation: str | None) -> str:
        return found(strategy(*GIVEN), claim("experts_per_gpu", value, relation=relation))[0].verdict

    assert (verdict(8, None), verdict(9, None)) == (HOLDS, FAILS)
    assert (verdict(9, "at_most"), verdict(7, "at_most")) == (HOLDS, FAILS)
    assert (verdict(7, "at_least"), verdict(9, "at_least")) == (HOLDS, FAILS)
    assert (verdict(9, "below"), verdict(8, "below")) == (HOLDS, FAILS)


@pytest.mark.parametrize(
    ("old", "changes", "relation", "value"),
    [
        ("gpus_used", {}, None, 8),
        ("gpus_for_batch_256", {"training.global_batch": 256}, None, 8),
        ("gpus_for_dp2", {"parallel.dp": 2}, None, 16),
        # As many experts a rank as before: 8 of 64.
        ("gpus_for_128_experts", {"model.num_experts": 128, "parallel.ep": 16}, None, 16),
        ("gpus_for_ep32_tp2", {"parallel.ep": 32, "parallel.tp": 2}, "at_most", 32),
        ("gpus_for_ep64_tp4", {"parallel.ep": 64, "parallel.tp": 4}, "at_most", 64),
        ("gpus_for_ep64_tp2_pp2", {"parallel.ep": 64, "parallel.tp": 2, "parallel.pp": 2}, "at_most", 128),
    ],
)
def test_an_old_name_is_read_with_a_note(
    old: str, changes: dict[str, int], relation: str | None, value: int
) -> None:
    plan = build_plan(strategy(*GIVEN).model_copy(update={"claims": (claim(old, value),)}))
    result = audit(plan, predict(plan))
    (one,) = result.findings
    assert one.verdict == HOLDS
    assert one.derived.value == value
    assert one.read_as.quantity == "gpus"
    assert changes.items() <= one.read_as.changes.items()
    assert one.read_as.relation == relation
    (note,) = old_quantity_notes(result)
    assert note.startswith(f"{old} is an old name of {{quantity: gpus")
    assert audit_dict(plan, result)["claims"][0]["quantity"] == old  # as it is written


ONE_HOST = ("cluster.hosts=1", "training.global_batch=8", "model.num_experts=8", "model.num_hidden_layers=2")


def test_the_fastest_plan_is_optimal_and_others_have_their_place() -> None:
    rows = search(strategy(*ONE_HOST)).rows
    stated = claim("place_by_throughput", 1)
    (best,) = found(rows[0].strategy, stated)
    assert best.verdict == HOLDS
    slow = rows[len(rows) // 2]
    (one,) = found(slow.strategy, stated)
    assert one.verdict == FAILS
    assert one.derived.value == 1 + sum(row.tokens_per_s > slow.tokens_per_s * (1 + 1e-9) for row in rows)
    assert rows[0].name in one.derived.arithmetic
    few = next(d for d in one.derivations if d.of == "on no more GPUs")
    assert few.value == 1 + sum(
        row.gpus <= slow.gpus and row.tokens_per_s > slow.tokens_per_s * (1 + 1e-9) for row in rows
    )


# Reading


def problems(text: str) -> list[tuple[str, str | None, int | None]]:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT + text)
    return [(problem.code, problem.path, problem.line) for problem in caught.value.problems]


FIRST = TEXT.count("\n") + 2  # the line of the first claim


def test_every_wrong_key_and_value_of_every_claim_is_a_problem_with_its_line() -> None:
    wrong = """\
claims:
  - {quantity: gpus, value: 1, where: here, with: {training.global_bach: 2, parallel.ep: many}}
  - {quantity: gpus, value: 1, where: here, with: {cluster.gpu.memory: 64}}
  - {quantity: gpus, value: 1, where: here, with: {parallel.dp: 2}}
  - {quantity: gpus, value: 1, where: here, with: {claims: [], training.steps.x: 1}}
limits: {balance_min: 7}
"""
    first = FIRST
    assert sorted(problems(wrong), key=lambda found: (found[2], found[0])) == [
        ("SW111", "claims[0].with.training.global_bach", first),
        ("SW113", "claims[0].with.parallel.ep", first),
        ("SW116", "claims[1].with.cluster.gpu.memory", first + 1),
        ("SW124", "claims[3].with.training.steps.x", first + 3),
        ("SW125", "claims[3].with.claims", first + 3),
        ("SW114", "limits.balance_min", first + 4),
    ]


def test_a_misspelt_key_of_a_claim_is_told_the_names_that_people_write() -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT + "claims:\n  - {quantity: gpus, value: 1, where: here, wiht: {parallel.dp: 2}}\n")
    (problem,) = caught.value.problems
    assert "did you mean with?" in problem.found
    assert problem.expected == "one of: quantity, value, where, with, relation"


def test_with_is_a_mapping() -> None:
    (problem,) = problems("claims:\n  - {quantity: gpus, value: 1, where: here, with: [parallel.dp]}\n")
    assert problem == ("SW113", "claims[0].with", FIRST)


def test_claims_are_written_as_they_are_read() -> None:
    text = (
        "claims:\n  - {quantity: gpus, with: {parallel: EP8_TP2, parallel.dp: 2}, value: 32, where: here}\n"
    )
    given = loads(TEXT + text)
    written = given.model_dump(context=AS_TEXT)
    assert loads(sections_yaml(written)) == given
    plan = build_plan(given)
    (one,) = audit(plan, predict(plan)).findings
    assert one.derived.value == 16  # 2 × 8, the short name's other degrees kept
