"""An operator's variables against the plan."""

import pytest

from planner import StrategyError
from planner.plan.operator_env import format_ranks, parse_ranks, read_environment
from tests.support.examples import plan

STAGED = ("parallel.placement=staged", "parallel.ep=64", "parallel.tp=2")


def test_the_documents_own_exports_agree_with_the_staged_plan() -> None:
    environ = {"EMBEDDING_GPUS": "0,1", "EXPERT_GPUS": "2-65", "AGGREGATION_GPUS": "66,67", "OTHER": "x"}
    read = read_environment(plan(*STAGED), environ)
    assert read.values == {key: value for key, value in environ.items() if key != "OTHER"}
    assert read.memory_limit_bytes == 64_000_000_000 - 1024**3
    assert read.warnings == ()


def test_colocated_groups_are_first_stage_all_ranks_last_stage() -> None:
    built = plan("parallel=EP4_TP1_PP2")
    read_environment(built, {"EMBEDDING_GPUS": "0-3", "EXPERT_GPUS": "0-7", "AGGREGATION_GPUS": "4-7"})
    with pytest.raises(StrategyError, match="0-7"):
        read_environment(built, {"EXPERT_GPUS": "4-7"})


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("EMBEDDING_GPUS", "0,2", "SW302"),
        ("EMBEDDING_GPUS", "0,x", "SW302"),
        ("EXPERT_GPUS", "65-2", "SW302"),
        ("EXPERT_GPUS", "2-65,7", "SW302"),
        ("EXPERT_GPUS", "0-99999999999", "SW302"),
        ("EXPERT_GPUS", "0-9999999", "SW302"),
        ("EXPERT_GPUS", "2-65\n", "SW302"),  # would end its line in the file of a launch
        ("EXPERT_GPUS", "２-65", "SW302"),  # a digit, but not of ASCII
        ("MAX_MEMORY_PER_GPU", "16 MB", "SW303"),
        ("MAX_MEMORY_PER_GPU", "9000000000\n", "SW303"),
        ("MAX_MEMORY_PER_GPU", "９０００００００００", "SW303"),
        ("MAX_MEMORY_PER_GPU", "0", "SW303"),
        ("MEMORY_FRACTION", "1.5", "SW303"),
        ("MEMORY_FRACTION", "nan", "SW303"),
        ("MEMORY_FRACTION", "6.25%", "SW303"),
        ("MEMORY_FRACTION", ".", "SW303"),
    ],
)
def test_wrong_variable_is_one_problem(name: str, value: str, code: str) -> None:
    with pytest.raises(StrategyError) as error:
        read_environment(plan(*STAGED), {name: value})
    (problem,) = error.value.problems
    assert (problem.code, problem.path, problem.file) == (code, name, "environment")


def test_all_wrong_variables_are_reported() -> None:
    with pytest.raises(StrategyError) as error:
        read_environment(
            plan(*STAGED), {"EMBEDDING_GPUS": "5", "MEMORY_FRACTION": "x", "MAX_MEMORY_PER_GPU": "y"}
        )
    assert len(error.value.problems) == 3


def test_the_smaller_of_two_memory_limits_binds_with_both_in_bytes() -> None:
    # the document's own pair: 16 MiB, and 6.25 % of 64 GB = 4 GB
    read = read_environment(plan(), {"MAX_MEMORY_PER_GPU": "16777216", "MEMORY_FRACTION": "0.0625"})
    assert read.memory_limit_bytes == 16_777_216
    (warning,) = read.warnings
    assert warning.startswith("SW304 ")
    assert "16,777,216 bytes" in warning
    assert "4,000,000,000 bytes" in warning


def test_one_memory_limit_wins_over_the_plans_default() -> None:
    assert read_environment(plan(), {"MEMORY_FRACTION": "0.5"}).memory_limit_bytes == 32_000_000_000


def test_ranks_are_written_as_they_are_read() -> None:
    assert format_ranks((0, 1)) == "0,1"
    assert format_ranks((2, 3, 4, 7)) == "2-4,7"
    assert parse_ranks(" 2-4, 7") == (2, 3, 4, 7)
