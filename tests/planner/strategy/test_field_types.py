"""Bounds of times and counts, variables in paths, and the patterns that editors get."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planner import Problem, StrategyError, loads
from planner.loading.json_schema import json_schema
from planner.strategy.parallel import SHORT_NAME_PATTERN, parse_short_name
from tests.support.examples import TEXT, strategy


def problems_of(*overrides: str) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, overrides)
    return error.value.problems


@pytest.mark.parametrize(
    "override",
    [
        "launch.timeout=1e9 d",
        "launch.timeout=31 d",
        "cluster.mtbf=1e9 d",
        "training.steps=1e18",
        "training.steps=1000000001",
        "training.warmup_steps=1e300",
        "training.seed=1e19",
        "output.checkpoint_every=1e18",
        "model.num_experts=1e18",
    ],
)
def test_huge_time_or_count_is_one_problem_of_its_range(override: str) -> None:
    (problem,) = problems_of(override)
    assert (problem.code, problem.override) == ("SW114", override)
    assert "at most" in problem.expected
    assert len(problem.found) < 80


def test_long_times_that_make_sense_are_legal() -> None:
    assert strategy("launch.timeout=30 d").launch.timeout == 30 * 86_400
    assert strategy("cluster.mtbf=5e6 h").cluster.mtbf == 5e6 * 3600
    assert strategy("training.steps=1e9").training.steps == 10**9


def test_variables_of_a_path_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("CORPUS", "my corpus")
    loaded = strategy("data.path=['$HOME/${CORPUS}/*.txt', /a$, ~/b]", "output.folder=$HOME")
    assert loaded.data.path == ("/home/x/my corpus/*.txt", "/a$", "/home/x/b")
    assert loaded.output.folder == "/home/x"


@pytest.mark.parametrize("path", ["$NOT_SET/data", "/x/${NOT_SET}", "$EMPTY/data", "${}"])
@pytest.mark.parametrize("key", ["output.folder", "data.path", "launch.python"])
def test_variable_that_is_not_set_is_no_folder_of_that_name(
    monkeypatch: pytest.MonkeyPatch, key: str, path: str
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    (problem,) = problems_of(f"{key}={path}")
    assert (problem.code, problem.path) == ("SW117", key)


@cache
def schema_of(path: str) -> dict[str, Any]:
    schema = json.loads(json_schema())
    at = schema
    for key in path.split("."):
        field = at["properties"][key]
        name = field.get("$ref") or next((b["$ref"] for b in field.get("anyOf", ()) if "$ref" in b), "")
        at = schema["$defs"][name.rpartition("/")[2]] if name else field
    return next((branch for branch in at.get("anyOf", ()) if "pattern" in branch), at)


# Short texts of what these patterns are about.
NAMES = st.text(alphabet="aZ0._-é/ ", max_size=5)
QUANTITIES = st.from_regex(r"\A ?[-+]?[0-9.]{1,4}(e[-+]?[0-9])? ?(GB|d|min|h|T|B|)\Z", fullmatch=True)


@pytest.mark.parametrize("key", ["name", "cluster.gpu.memory", "training.tokens"])
@given(data=st.data())
def test_the_schema_has_the_pattern_of_the_loader(key: str, data: st.DataObject) -> None:
    value = data.draw(NAMES if key == "name" else QUANTITIES)
    others = ["training.steps=null"] if key == "training.tokens" else []
    try:
        loads(TEXT, [f"{key}={json.dumps(value)}", *others])
        is_legal = True
    except StrategyError as error:
        wrong = [problem for problem in error.problems if problem.path == key and problem.code < "SW2"]
        if any("integer" in problem.expected and problem.code == "SW114" for problem in wrong):
            return  # 0.5 B: no pattern can tell
        is_legal = not wrong
    assert (re.search(schema_of(key)["pattern"], value) is not None) == is_legal, value


@given(text=st.from_regex(r"\A(EP|TP|XP)[0-9]{1,3}(_(EP|TP|DP)[0-9])?\Z", fullmatch=True))
@example("EP2_EP2")
def test_the_schema_has_the_pattern_of_short_names(text: str) -> None:
    try:
        parse_short_name(text)
        is_legal = True
    except ValueError:
        is_legal = False
    assert (re.search(SHORT_NAME_PATTERN, text) is not None) == is_legal


def test_the_schema_knows_short_names() -> None:
    assert json.loads(json_schema())["properties"]["parallel"]["anyOf"][1]["pattern"] == SHORT_NAME_PATTERN


def test_relative_paths_of_a_strategy_have_patterns_too() -> None:
    pattern = schema_of("output.folder")["pattern"]
    assert re.search(pattern, str(Path("runs")))
    assert not re.search(pattern, "a\nb")
