"""What a rank may take, what is judged without a written limit, and the exit codes that follow."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import build_plan, load
from planner.memory.fit import cap_problem, memory_warning
from planner.memory.rank_memory import fullest_ranks
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.operator_env import read_environment
from planner.prediction.limits import limit_checks
from planner.prediction.predict import predict
from planner.search.search import search
from planner.units import format_bytes
from tests.support.examples import plan, strategy

STAGED, COLOCATED, TINY = (f"ds_configs/{name}.yaml" for name in ("ep64_tp2_staged", "ep64_tp2", "tiny_cpu"))
FITS = ("parallel={ep: 64}", "limits={}")
MORE = "limits.memory_max, 80 GB, is more"
SMALL = ("parallel={ep: 1}", "cluster.gpu.memory=8 GB")


@pytest.mark.parametrize(
    ("overrides", "limit", "said"),
    [
        ((), 64 * 10**9 - 2**30, "62.9 GB (cluster.gpu.memory, 64 GB, less 1 GiB kept free)"),
        (("limits.memory_max=48 GB",), 48 * 10**9, "48 GB (limits.memory_max)"),
        (("limits.memory_max=64 GB",), 64 * 10**9, "64 GB (limits.memory_max)"),
        (("limits.memory_max=80 GB",), 64 * 10**9, f"64 GB (cluster.gpu.memory; {MORE})"),
        (("cluster.gpu=cpu",), 2 * 10**9, "2 GB (cluster.gpu.memory)"),
    ],
)
def test_the_limit_is_the_gpus_memory_less_a_reserve_unless_written(
    overrides: tuple[str, ...], limit: int, said: str
) -> None:
    given = strategy(*overrides)
    assert memory_limit(given) == limit
    assert describe_memory_limit(given) == said


def test_an_h200_is_not_cut_to_another_gpus_memory() -> None:
    assert memory_limit(strategy("cluster.gpu=H200")) > 139e9


def test_only_memory_is_judged_where_nothing_is_written() -> None:
    built = plan(*FITS)
    assert [check.name for check in limit_checks(built, predict(built))] == ["memory_max"]
    written = plan(*FITS, "limits.utilization_min=0.99")
    names = {check.name: check.holds for check in limit_checks(written, predict(written))}
    assert names == {"utilization_min": False, "memory_max": True}


def test_the_warning_names_the_fullest_rank_and_the_limit() -> None:
    assert memory_warning(plan(*FITS), memory_limit(strategy())) is None
    built = plan(*SMALL)
    peak = max(rank.peak_bytes for rank in fullest_ranks(built))
    said = memory_warning(built, memory_limit(built.strategy))
    assert peak > 8e9
    assert said is not None
    assert said.startswith("SW305 ")
    assert "less 1 GiB kept free" in said
    exported = memory_warning(plan(*FITS), 16_777_216)
    assert exported is not None
    assert exported.endswith("of 16.8 MB (environment)")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("MAX_MEMORY_PER_GPU", "16777216", 2**24), ("MEMORY_FRACTION", "0.0625", 4e9)],
)
def test_a_cap_that_the_plan_cannot_meet_is_a_problem_with_the_need_by_cause(
    name: str, value: str, allowed: float
) -> None:
    """Both are the strategy document's own, for its own plan."""
    built = build_plan(load("ds_configs/ep64_tp2_staged.yaml"))
    fullest = max(fullest_ranks(built), key=lambda rank: rank.peak_bytes)
    problem = cap_problem(built, read_environment(built, {name: value}))
    assert problem is not None
    assert (problem.code, problem.path) == ("SW307", name)
    assert f"allows {format_bytes(int(allowed))} for a rank, but rank {fullest.rank} needs " in problem.found
    assert f"overhead {format_bytes(dict(fullest.by_cause)['overhead'])}" in problem.found
    enough = str(problem.expected).split()[2]
    assert cap_problem(built, read_environment(built, {name: enough})) is None


def test_a_cap_that_is_no_lower_than_the_plans_own_limit_refuses_nothing() -> None:
    """A generated launch exports the plan's own limit, also where a plan is not predicted to fit it."""
    built = plan(*SMALL)
    exported = {"MAX_MEMORY_PER_GPU": str(memory_limit(built.strategy))}
    assert memory_warning(built, memory_limit(built.strategy)) is not None
    assert cap_problem(built, read_environment(built, exported)) is None
    assert cap_problem(built, read_environment(built, {})) is None


def test_a_search_uses_and_names_the_same_limit() -> None:
    found = search(strategy("cluster.hosts=1", "cluster.gpu.memory=20 GB"))
    assert found.limit == "18.9 GB (cluster.gpu.memory, 20 GB, less 1 GiB kept free)"
    assert found.rows
    assert max(row.peak_bytes for row in found.rows) <= 20e9 - 2**30 == found.rows[0].limit_bytes


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ((), 1),  # the reference as it is written
        (("limits={}",), 0),
        (("limits={}", "limits.utilization_min=0.95"), 1),
        (("limits={memory_max: 1 MB}",), 1),
    ],
)
def test_plan_ends_with_1_where_a_limit_is_missed(
    overrides: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", STAGED, *overrides, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["code"] == code
    assert all(check["holds"] for check in answer["prediction"]["limits"]) is (code == 0)


def test_a_comparison_judges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STAGED, COLOCATED, "--plain"]) == 0
    assert "limit utilization_min" in capsys.readouterr().out


def test_generate_says_that_a_plan_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"output.folder={tmp_path}"
    assert main(["generate", TINY, folder, "limits.memory_max=1 MB"]) == 1
    printed = capsys.readouterr()
    assert "DOES NOT FIT\nwarning: SW305 " in printed.err
    assert (tmp_path / "tiny_cpu" / "launch.sh").is_file()  # written all the same
    assert main(["generate", TINY, folder, "limits.memory_max=1 MB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert main(["generate", TINY, folder]) == 0
    assert capsys.readouterr().err == ""
