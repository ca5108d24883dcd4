"""What keeps ranks from training together: reported once, with the ranks named as ranges."""

from dataclasses import replace

import pytest

from planner import Plan, Problem, build_plan, load, loads
from runtime.startup.rank_reports import RankReport, find_problems, missing_ranks
from tests.runtime.startup.test_resume import STRATEGY

STAGED = "ds_configs/ep64_tp2_staged.yaml"
HOSTS = "cluster.hosts=[" + ", ".join(f"node{i}" for i in range(16)) + "]"
HOLDS = {"plan": "p", "stage tables": "t", "code": "c", "python": "3.11", "torch": "2.13.0"}
GENERATED = {"SWITCHYARD_PLAN": "p"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build_plan(load(STAGED, [HOSTS]))


def reports(plan: Plan) -> dict[int, RankReport]:
    """All is well: 68 ranks, 8 to a host."""
    given = {f"node{i}": 8 if i < 8 else 4 for i in range(9)}
    return {
        rank: RankReport(
            rank=rank,
            local_rank=rank % 8,
            host=f"node{rank // 8}",
            machine=f"node{rank // 8}",
            holds=HOLDS,
            hosts=given,
        )
        for rank in range(plan.world_size)
    }


def changed(plan: Plan, ranks: range, **change: object) -> dict[int, RankReport]:
    return {r: replace(report, **change) if r in ranks else report for r, report in reports(plan).items()}


def found(plan: Plan, given: dict[int, RankReport], environ: dict[str, str] = GENERATED) -> list[str]:
    """Code and text of every Problem."""
    return [f"{problem.code} {problem.found}" for problem in find_problems(plan, given, environ)]


def assert_only(texts: list[str], code: str, *facts: str) -> None:
    """That there is one Problem, of this code, and that it has the facts."""
    (text,) = texts
    assert text.startswith(f"{code} ")
    assert all(fact in text for fact in facts), text


def test_ranks_that_agree_train(plan: Plan) -> None:
    assert found(plan, reports(plan)) == []


@pytest.mark.parametrize("name", ["plan", "stage tables", "code", "python", "torch"])
def test_ranks_that_differ_are_named_in_one_problem(plan: Plan, name: str) -> None:
    given = changed(plan, range(8, 24), holds={**HOLDS, name: "other"})
    assert_only(found(plan, given), "SW612", "ranks 8-23 on node1, node2", f"{name} other")


def test_two_other_versions_are_two_problems(plan: Plan) -> None:
    given = changed(plan, range(60, 68), holds={**HOLDS, "torch": "2.12.0"})
    given[3] = replace(given[3], holds={name: value for name, value in HOLDS.items() if name != "torch"})
    one, others = found(plan, given)
    assert_only([one], "SW612", "rank 3 on node0", "torch none")
    assert_only([others], "SW612", "ranks 60-67 on node7, node8", "torch 2.12.0")


def test_another_plan_is_not_reported_as_other_tables_too(plan: Plan) -> None:
    given = changed(plan, range(5, 6), holds={**HOLDS, "plan": "q", "stage tables": "u"})
    assert_only(found(plan, given), "SW612", "rank 5 on node0", "plan q")


def test_a_problem_of_many_ranks_is_reported_once(plan: Plan) -> None:
    fault = Problem(code="SW999", path="x", found="no GPU", expected="e", fix="f")
    given = changed(plan, range(8, 68), problems=(fault,))
    names = "node1, node2, node3, node4 and 4 more"
    assert found(plan, given) == [f"SW999 no GPU (ranks 8-67 on {names})"]
    assert found(plan, changed(plan, range(68), problems=(fault,))) == ["SW999 no GPU"]


def test_a_tp_group_over_two_hosts_is_refused_under_any_launcher(plan: Plan) -> None:
    given = changed(plan, range(67, 68), machine="else", host="else")
    assert_only(found(plan, given, {}), "SW613", "ranks 66,67", "node8, else")
    tiny = build_plan(loads(STRATEGY, ["parallel={ep: 2, tp: 2, dp: 2}"]))
    each = {r: RankReport(rank=r, host=f"h{r}", machine=f"h{r}", holds=HOLDS) for r in range(4)}
    assert_only(found(tiny, each, {}), "SW613", "ranks 0,1", "h0, h1", "1 more")


def test_hosts_in_another_order_are_reported_once(plan: Plan) -> None:
    swapped = {f"node{i}": 8 if i < 8 else 4 for i in (1, 0, 2, 3, 4, 5, 6, 7, 8)}
    given = changed(plan, range(68), hosts=swapped)
    hosts = "node1 with 8, node0 with 8, node2 with 8, node3 with 8 and 5 more"
    assert_only(found(plan, given), "SW615", "ranks 0-67 on node0", hosts)
    assert found(plan, given, {}) == [], "by hand, hosts are free"


def test_a_short_host_that_is_not_last_is_reported(plan: Plan) -> None:
    short = {"node8": 4} | {f"node{i}": 8 for i in range(8)}
    assert_only(found(plan, changed(plan, range(68), hosts=short)), "SW615", "node8 with 4")


def test_a_last_host_with_room_to_spare_is_fine(plan: Plan) -> None:
    assert found(plan, changed(plan, range(68), hosts={f"node{i}": 8 for i in range(10)})) == []


def test_other_local_ranks_are_reported_once(plan: Plan) -> None:
    given = changed(plan, range(8, 12), local_rank=7)
    assert_only(found(plan, given), "SW616", "ranks 8-11 on node1", "LOCAL_RANK is 7")
    assert found(plan, given, {}) == []


def test_two_ranks_on_one_gpu_are_reported(plan: Plan) -> None:
    given = changed(plan, range(8, 10), device="GPU-1234")
    assert_only(found(plan, given, {}), "SW614", "ranks 8,9 on node1", "GPU-1234")


def test_missing_ranks_are_named_with_their_hosts(plan: Plan) -> None:
    given = {rank: report for rank, report in reports(plan).items() if rank < 64}
    (problem,) = missing_ranks(plan, given, 12.4)
    assert_only([f"{problem.code} {problem.found}"], "SW611", "ranks 64-67", "node8", "12 s")
    assert list(missing_ranks(plan, reports(plan), 1.0)) == []


def test_a_report_of_other_code_is_understood() -> None:
    told = RankReport.from_json('{"rank": 3, "fingerprint": "old", "versions": {}, "problems": []}')
    assert (told.rank, told.holds) == (3, {})


def test_a_report_arrives_as_it_was_sent(plan: Plan) -> None:
    fault = Problem(code="SW201", path="x", line=3, found="f", expected="e", fix="x", file="y.yaml")
    sent = replace(reports(plan)[9], problems=(fault,))
    assert RankReport.from_json(sent.to_json()) == sent
