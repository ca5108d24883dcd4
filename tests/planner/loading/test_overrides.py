"""Overrides: values as they are typed, and faults that name the override that made them."""

import time

import pytest

from planner import StrategyError, loads
from planner.loading.json_schema import list_paths
from tests.support.examples import TEXT, strategy


@pytest.mark.parametrize(
    "path",
    [
        "/data/my #1 corpus",
        "#1",
        "/a: b",
        "*.txt",
        "&x",
        "!x",
        "- x",
        "%x",
        "@x",
        "a: ",
        "x #",
        "?",
        "|",
        "a]b}",
    ],
)
def test_plain_value_is_text_to_its_last_character(path: str) -> None:
    assert strategy(f"data.path={path}").data.path == path.strip()


def test_hash_inside_a_list_is_text() -> None:
    assert strategy("data.path=[/my #1 corpus, '/b #2']").data.path == ("/my #1 corpus", "/b #2")


def test_text_after_a_list_is_a_problem() -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, ["data.path=[/a] # the corpus"])
    assert [(p.code, p.override) for p in error.value.problems] == [("SW102", "data.path=[/a] # the corpus")]


def test_nested_aliases_in_an_override_are_refused_within_seconds() -> None:
    value = "[&a [x,x,x,x,x,x,x,x,x,x]"
    for last, name in zip("abcdefg", "bcdefgh", strict=True):
        value += f",&{name} [{','.join([f'*{last}'] * 10)}]"  # 10^8 values
    began = time.monotonic()
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [f"data.path={value}]"])
    assert [p.code for p in error.value.problems] == ["SW108"]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("overrides", "path", "named"),
    [
        # global_batch 128 is the file's; 128 is not divisible by 3.
        (("training.micro_batch=3",), "training.global_batch", "training.micro_batch=3"),
        (("model.num_experts=63", "parallel.dp=1"), "parallel.ep", "model.num_experts=63"),
        # head_dim follows from both; the run's seed has nothing to do with it.
        (
            ("training.seed=3", "model.num_attention_heads=15"),
            "model.head_dim",
            "model.num_attention_heads=15",
        ),
        (
            ("model.hidden_size=90", "model.num_attention_heads=4"),
            "model.head_dim",
            "model.hidden_size=90 model.num_attention_heads=4",
        ),
        (("parallel={ep: 8, dp: 3}",), "training.global_batch", "parallel={ep: 8, dp: 3}"),
    ],
)
def test_rule_broken_by_an_override_names_it(overrides: tuple[str, ...], path: str, named: str) -> None:
    with pytest.raises(StrategyError) as error:
        loads(f"{TEXT}parallel: {{ep: 8}}\n", overrides, file="f.yaml")
    problem = next(p for p in error.value.problems if p.path == path)
    assert (problem.override, problem.line, problem.file) == (named, None, None)


def test_rule_that_the_file_breaks_by_itself_keeps_its_line() -> None:
    with pytest.raises(StrategyError) as error:
        loads(
            f"parallel: EP7\n{TEXT}", ["model.num_experts=62"], file="f.yaml"
        )  # 7 divides neither 64 nor 62
    assert [(p.path, p.line, p.override) for p in error.value.problems] == [("parallel.ep", 1, None)]


@pytest.mark.parametrize("value", ["{a: 1}", "-1", "null", "1e30", "{hostfile: /none}"])
def test_every_fault_of_an_override_names_it(value: str) -> None:
    """The file is right, so that whatever is wrong comes from the override."""
    for path in list_paths():
        try:
            loads(TEXT, [f"{path}={value}"], file="f.yaml")
        except StrategyError as error:
            for problem in error.problems:
                assert problem.override == f"{path}={value}", problem
