"""The plan's own exchanges between forked ranks: right values, wrong ones, and a rank that comes late."""

import importlib
import os
import re
import time
from typing import Any

import pytest

from launch.preflight.link_checks import exchange_timings, link_checks
from planner import Plan, build_plan, load
from planner.timing.exchanges import exchanges_of, host_pairs
from tests.support import ranks

COLOCATED = ("parallel={ep: 4, tp: 2}", "cluster.hosts=[a, b]", "cluster.gpus_per_host=2")
STAGED = (
    "parallel={placement: staged, ep: 2, tp: 2}",
    "cluster.hosts=[a, b, c]",
    "cluster.gpus_per_host=2",
)
PIPELINE = (
    "parallel={ep: 2, pp: 2}",
    "cluster.hosts=[a, b]",
    "cluster.gpus_per_host=2",
    "training.micro_batch=6",
)
# Links that any machine has: these tests are about who is slow, not about how fast this machine is.
ANY_SPEED = "cluster.links={intra_host: 1 kB/s, inter_host: 1 kB/s}"


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of a probe need no DeepSpeed, which takes seconds to import; and little time is enough here."""

    def warm() -> None:
        for name in (
            "torch.distributed",
            "runtime.parallel.groups",
            "runtime.preflight.link_trials",
            "runtime.preflight.exchange_trials",
        ):
            importlib.import_module(name)

    monkeypatch.setattr(ranks, "warm", warm)
    monkeypatch.setattr("runtime.probe.EXCHANGES_S", 0.3)
    monkeypatch.setattr("runtime.probe.PAIRS_S", 0.3)


def plan_of(*overrides: str) -> Plan:
    return build_plan(load("ds_configs/tiny_cpu.yaml", (ANY_SPEED, *overrides)))


def measured(plan: Plan, fault: str = "") -> dict[str, Any]:
    """What probe.json holds after all ranks measured; `fault` names what goes wrong on rank 1."""
    from runtime.probe import result_of

    found = ranks.run_ranks(plan.world_size, _measure, plan, fault)
    return result_of(plan, found, "cpu")


def _measure(plan: Plan, fault: str) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from runtime.parallel.groups import make_groups
    from runtime.probe import measure

    rank = int(os.environ["RANK"])
    if rank == 1 and fault:
        faulty = {"late": _late, "altered": _altered, "lost": _lost}[fault]
        name = "all_to_all_single" if fault != "altered" else "all_reduce"
        setattr(dist, name, faulty(getattr(dist, name)))
    found = measure(plan, make_groups(plan, rank), torch.device("cpu"))
    assert found is not None
    return {"rank": rank, "host": "h", **found}


def _late(real: Any) -> Any:
    def all_to_all(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return real(*arguments, **named)

    return all_to_all


def _altered(real: Any) -> Any:
    def all_reduce(values: Any, *arguments: Any, **named: Any) -> Any:
        found = real(values, *arguments, **named)
        if values.numel() > 100:
            values[40] += 1
        return found

    return all_reduce


def _lost(real: Any) -> Any:
    def all_to_all(received: Any, sent: Any, **named: Any) -> Any:
        sent = sent.clone()
        sent[: sent.numel() // 4] = 0
        return real(received, sent, **named)

    return all_to_all


@pytest.mark.parametrize("overrides", [COLOCATED, STAGED, PIPELINE], ids=["colocated", "staged", "pipeline"])
def test_every_exchange_runs_and_gives_the_right_values(overrides: tuple[str, ...]) -> None:
    plan = plan_of(*overrides)
    found = measured(plan)
    assert set(found["exchanges"]) == {exchange.title for exchange in exchanges_of(plan)}
    for exchange in exchanges_of(plan):
        taking_part = {rank for group in exchange.groups for rank in group}
        taking_part |= {rank for message in exchange.messages for rank in message[:2]}
        assert {int(rank) for rank in found["exchanges"][exchange.title]} == taking_part
    hosts = {plan.host_of(rank).name: None for rank in range(plan.world_size)}
    between = {tuple(plan.host_of(rank).name for rank in pair["ranks"]) for pair in found["pairs"]}
    assert {frozenset(pair) for pair in between if len(set(pair)) == 2} == {
        frozenset(pair) for pairs in host_pairs(plan) for pair in pairs
    }
    assert {(host, host) for host in hosts} <= between
    checks = {check.name: check.verdict for check in link_checks(plan, found)}
    assert checks["values"] == checks["links in a host"] == checks["links between hosts"] == "passes"
    assert all(row.measured_s > 0 for row in exchange_timings(plan, found))


def test_a_rank_that_comes_late_is_named() -> None:
    plan = plan_of(
        "parallel={ep: 4}", "cluster.hosts=[a, b, c, d]", "cluster.gpus_per_host=1", "training.micro_batch=6"
    )
    late = [c for c in link_checks(plan, measured(plan, "late")) if c.name == "late ranks"]
    assert [(check.host, check.verdict) for check in late] == [("b", "fails")]
    assert late[0].code == "SW537"
    assert re.search(r"EP all-to-all, all: rank 1 .* 5\d\.\d ms", late[0].found)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "altered",
            "TP all-reduce, all: rank 1 on a: 1 of 98304 values are not the sum: element 40 is 7, not 6",
        ),
        ("lost", "EP all-to-all, all: rank 0 on a:"),
    ],
)
def test_values_that_are_not_what_was_sent_are_found(fault: str, words: str) -> None:
    plan = plan_of(*COLOCATED)
    (check,) = (c for c in link_checks(plan, measured(plan, fault)) if c.name == "values")
    assert check.verdict == "fails"
    assert words in check.found


@pytest.mark.parametrize(
    ("seconds", "round_trip", "expected"),
    [(0.010, 0.002, 0.009), (0.010, 0.0, 0.010), (0.004, 0.010, 0.002)],
)
def test_one_way_is_never_less_than_half_of_what_was_measured(
    seconds: float, round_trip: float, expected: float
) -> None:
    from runtime.preflight.link_trials import _one_way

    assert _one_way(seconds, round_trip) == pytest.approx(expected)
