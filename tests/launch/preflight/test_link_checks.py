"""Verdicts about values, links, hosts, groups and ranks, from measured seconds."""

from itertools import combinations
from typing import Any

import pytest

from launch.preflight.check import PreflightCheck
from launch.preflight.link_checks import exchange_timings, link_checks, measured_links
from planner import Plan, build_plan, load
from planner.timing.exchanges import exchanges_of, host_pairs, neighbours, rank_pairs
from tests.support.examples import plan

# 12.5 GB/s × 0.85: a link as good as an H100's prediction counts with; 8 MB take 0.75 ms on it.
SIZE, RATE = 8_000_000, 12.5e9 * 0.85
HOSTS = ("a", "b", "c", "d")
FOUR = plan(
    "cluster.hosts=[a, b, c, d]",
    "cluster.gpus_per_host=2",
    "cluster.gpu=H100",
    "parallel={ep: 4, tp: 2, dp: 2}",
)


def result(built: Plan = FOUR, slow: dict[tuple[int, int], float] | None = None) -> dict[str, Any]:
    """What ranks measure where all is as planned; `slow`: times as long between two ranks."""
    ends = [*neighbours(built)]
    ends += [ranks for pairs in host_pairs(built) for pair in pairs for ranks in rank_pairs(built, pair)]
    seconds = SIZE / RATE
    return {
        "pair_bytes": SIZE,
        "exchanges": {
            exchange.title: {
                str(rank): {"median_s": 0.001, "issue_s": 1e-5, "repeats": 5, "wrong": ""}
                for rank in range(built.world_size)
                if any(rank in group for group in exchange.groups)
                or any(rank in message[:2] for message in exchange.messages)
            }
            for exchange in exchanges_of(built)
        },
        "pairs": [
            {
                "ranks": list(pair),
                "latency_s": 20e-6,
                "there_s": seconds * (slow or {}).get(pair, 1.0),
                "back_s": seconds,
                "wrong": "",
            }
            for pair in ends
        ],
    }


def failing(checks: tuple[PreflightCheck, ...]) -> list[tuple[str, str | None]]:
    return [(check.name, check.host) for check in checks if check.verdict == "fails"]


def test_links_as_planned_pass() -> None:
    checks = link_checks(FOUR, result())
    assert {check.verdict for check in checks} == {"passes"}
    assert [check.name for check in checks] == [
        "values",
        "links in a host",
        "links between hosts",
        "slow hosts",
        "slow links in a host",
        "slow groups",
        "late ranks",
    ]


def test_wrong_values_name_exchange_rank_and_host() -> None:
    measured = result()
    measured["exchanges"]["EP all-to-all, all"]["5"]["wrong"] = "3 of 9 values are not …"
    measured["pairs"][0]["wrong"] = "rank 1 did not get what rank 0 sent"
    (check,) = (c for c in link_checks(FOUR, measured) if c.verdict == "fails")
    assert check.code == "SW532"
    assert "EP all-to-all, all: rank 5 on c: 3 of 9 values are not …" in check.found
    assert "ranks 0 and 1: rank 1 did not get what rank 0 sent" in check.found


def everything(times: float, inside: bool) -> dict[tuple[int, int], float]:
    ends = {tuple(pair["ranks"]): pair for pair in result()["pairs"]}
    return {(a, b): times for a, b in ends if (a // 2 == b // 2) == inside}


@pytest.mark.parametrize(("inside", "name"), [(True, "links in a host"), (False, "links between hosts")])
def test_links_slower_than_the_strategy_says_fail(inside: bool, name: str) -> None:
    # One direction at a third: the median over both directions lies between.
    measured = result(slow=everything(3.0, inside))
    for pair in measured["pairs"]:
        if (pair["ranks"][0] // 2 == pair["ranks"][1] // 2) == inside:
            pair["back_s"] = pair["there_s"]
    (check,) = (c for c in link_checks(FOUR, measured) if c.verdict == "fails")
    assert (check.code, check.name) == ("SW533", name)
    assert "3.54 GB/s" in check.found
    assert all(part in check.expected for part in ("8.5 GB/s", "80%", "12.5 GB/s × 0.85"))


def test_a_slow_host_is_named() -> None:
    slow = {(a, b): 4.0 for a, b in combinations(range(8), 2) if 2 in (a // 2, b // 2) and a // 2 != b // 2}
    checks = link_checks(FOUR, result(slow=slow))
    assert failing(checks) == [("slow hosts", "c")]


def test_a_slow_link_is_named_with_its_ranks() -> None:
    checks = link_checks(FOUR, result(slow={(1, 7): 4.0}))
    (check,) = (c for c in checks if c.verdict == "fails")
    assert (check.code, check.host) == ("SW534", None)
    assert all(part in check.found for part in ("a – d, ranks 1 and 7", "4.0 times", "8 MB"))


def test_a_slow_pair_inside_a_host_is_named() -> None:
    assert failing(link_checks(FOUR, result(slow={(4, 5): 3.0}))) == [("slow links in a host", "c")]


def test_a_slow_group_is_named() -> None:
    measured = result()
    for rank in ("4", "5"):
        measured["exchanges"]["TP all-reduce, all"][rank]["median_s"] = 0.003
    (check,) = (c for c in link_checks(FOUR, measured) if c.verdict == "fails")
    assert check.code == "SW536"
    assert all(part in check.found for part in ("TP all-reduce, all: ranks 4, 5 on c", "3.0 times"))


def test_a_late_rank_is_named() -> None:
    measured = result()
    for trial in measured["exchanges"]["EP all-to-all, all"].values():
        trial["median_s"] = 0.03
    measured["exchanges"]["EP all-to-all, all"]["6"]["issue_s"] = 0.029
    (check,) = (c for c in link_checks(FOUR, measured) if c.verdict == "fails")
    assert (check.code, check.host) == ("SW537", "d")
    assert all(part in check.found for part in ("EP all-to-all, all: rank 6", "29 ms"))


def test_two_hosts_cannot_be_compared() -> None:
    two = plan(
        "cluster.hosts=[a, b]",
        "cluster.gpus_per_host=1",
        "parallel.dp=2",
        "cluster.gpu=H100",
        "training.global_batch=4",
    )
    checks = link_checks(two, result(two))
    assert [(c.name, c.verdict) for c in checks if c.name == "slow hosts"] == [("slow hosts", "unknown")]


def test_measured_links_are_medians_for_the_planner() -> None:
    links = measured_links(FOUR, result(slow={(0, 2): 10.0}), "here")
    assert links.intra_bytes_per_s == pytest.approx(RATE)
    assert links.inter_bytes_per_s == pytest.approx(RATE)
    assert (links.intra_latency_s, links.inter_latency_s) == (20e-6, 20e-6)


def test_staged_plans_have_a_row_for_each_exchange() -> None:
    overrides = ["parallel={placement: staged, ep: 2, tp: 2}", "cluster.hosts=[a, b, c]"]
    staged = build_plan(load("ds_configs/tiny_cpu.yaml", overrides))
    rows = exchange_timings(staged, result(staged))
    assert [row.exchange.title for row in rows] == [exchange.title for exchange in exchanges_of(staged)]
    assert all(row.predicted_s > 0 and row.measured_s == 0.001 for row in rows)
    assert [row.num_groups for row in rows if row.exchange.kind == "send"] == [4, 4]
