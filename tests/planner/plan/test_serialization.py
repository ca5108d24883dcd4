"""The bytes of a run's files: whole, readable, the same every time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import build_plan, load, loads
from planner.generated import REFERENCE, SCHEMA
from planner.loading.json_schema import json_schema
from planner.plan.serialization import ds_config_json, plan_json, readable_json, strategy_yaml
from planner.report.strategy_reference import strategy_reference
from tests.support.examples import plan, strategy

AWKWARD = (
    "launch.environment={A: '3e-4', B: 'no', C: '0o17', D: '', F: '~', G: '1_0', H: ' x $Y '}",
    "data.path=[\"a: b\", '# c', '*']",
    "output.resume='10:30'",
    "launch.timeout=90 s",
    "limits.memory_max=1234567891 B",
    "training.learning_rate=1.2345678901234567e-05",
    "training.min_learning_rate=0",
    "cluster.hosts=[a slots=4, b]",
    "operate.hook=[notify, --x=1]",
    "claims=[{quantity: expert_compute_share, value: 1.56 %, where: '17'}]",
    "cluster.gpu=H100",
)


@pytest.mark.parametrize("overrides", [(), AWKWARD, ("cluster.hosts=1", "cluster.gpu=cpu")])
def test_whole_strategy_loads_back_equal(overrides: tuple[str, ...]) -> None:
    built = plan(*overrides)
    assert loads(strategy_yaml(built)) == built.strategy
    assert build_plan(loads(strategy_yaml(built))) == built


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=30).filter(
        lambda text: text.isprintable() and text != "" and text[0] != "~" and "$" not in text
    )
)
def test_any_text_survives_the_whole_strategy(text: str) -> None:
    """But for ~, which a loaded strategy has expanded already."""
    base = strategy()
    changed = base.model_copy(update={"output": base.output.model_copy(update={"folder": text})})
    assert loads(strategy_yaml(build_plan(changed))) == changed


@settings(max_examples=40, deadline=None)
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_survives_the_whole_strategy(number: float) -> None:
    base = strategy()
    changed = base.model_copy(update={"model": base.model.model_copy(update={"rope_theta": number})})
    assert loads(strategy_yaml(build_plan(changed))) == changed


def test_shipped_strategies_load_back_equal() -> None:
    for name in ("tiny_cpu", "ep64_tp2", "ep64_tp2_staged"):
        built = build_plan(load(f"ds_configs/{name}.yaml"))
        assert loads(strategy_yaml(built)) == built.strategy


def test_files_are_stamped_end_in_a_newline_and_repeat() -> None:
    built = plan("parallel=EP64_TP2")
    for write in (strategy_yaml, plan_json, ds_config_json):
        text = write(built)
        assert text == write(plan("parallel=EP64_TP2"))
        assert built.fingerprint in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_plan_json_places_every_rank() -> None:
    content = json.loads(plan_json(plan("parallel.placement=staged", "parallel.ep=64", "parallel.tp=2")))
    assert content["schema_version"] == 1
    assert content["world_size"] == 68
    assert len(content["ranks"]) == 68
    assert content["ranks"][65] == {
        "rank": 65,
        "host": "host-08",
        "local_rank": 1,
        "stage": "experts",
        "data": 63,
        "tp": 0,
        "edp": 0,
        "ep": 63,
    }
    assert content["ranks"][67] == {
        "rank": 67,
        "host": "host-08",
        "local_rank": 3,
        "stage": "aggregation",
        "data": 0,
        "tp": 1,
    }


def test_plan_json_has_the_layers_of_each_stage() -> None:
    content = json.loads(plan_json(plan("parallel=EP8_PP3", "parallel.layers_per_stage=[1, 10, 5]")))
    assert content["layers_per_stage"] == [1, 10, 5]
    assert [stage["layers"] for stage in content["stages"]] == [
        [0],
        list(range(1, 11)),
        [11, 12, 13, 14, 15],
    ]
    assert json.loads(plan_json(plan("parallel=EP8_PP3")))["layers_per_stage"] is None


def test_plan_json_stamps_the_operators_variables() -> None:
    content = json.loads(plan_json(plan(), {"MEMORY_FRACTION": "0.5", "EXPERT_GPUS": "0"}))
    assert content["environment"] == {"EXPERT_GPUS": "0", "MEMORY_FRACTION": "0.5"}


def test_readable_json_is_json() -> None:
    value = {"a": [1, 2.5, None, "é"], "b": {"c": list(range(60))}, "d": {}, "e": []}
    assert json.loads(readable_json(value)) == value


def test_schema_file_is_the_generated_one() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == json_schema(), "run: python -m planner.generated"


def test_schema_describes_what_is_written() -> None:
    schema = json.loads(json_schema())
    assert schema["properties"]["parallel"]["anyOf"][1]["type"] == "string"
    memory = schema["$defs"]["Limits"]["properties"]["memory_max"]
    assert ([branch["type"] for branch in memory["anyOf"]], memory["default"]) == (["string", "null"], None)
    assert schema["required"] == ["cluster", "model", "training"]


def test_strategy_reference_is_the_generated_one() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == strategy_reference(), "run: python -m planner.generated"


def test_every_key_says_what_it_means() -> None:
    rows = [line.split(" | ") for line in strategy_reference().splitlines() if line.startswith("| `")]
    silent = [cells[0] for cells in rows if len(cells) == 4 and not cells[3].strip(" |")]
    assert len(rows) > 90
    assert not silent
