"""Data as other programs name them: the paths and the weights that were written are those of the fix."""

from typing import Any

import pytest

from planner.strategy.mix_spellings import find_parts
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

BLEND = [("a", 0.7), ("b", 0.3)]


def mended(section: str, key: str, value: Any) -> Any:
    written = Written.of(TEXT)
    place = written.data.setdefault(section, {}) if section else written.data
    place[key] = value
    return settle(written).data


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "mix", {"a": 0.7, "b": 0.3}),
        ("data", "mix", [["a", 0.7], ["b", 0.3]]),
        ("data", "mix", [0.7, "a", 0.3, "b"]),
        ("data", "mix", [{"path": "a", "ratio": 0.7}, {"path": "b", "ratio": 0.3}]),
        ("data", "mix", [{"name": "a", "weight": "70%"}, {"name": "b", "weight": "30 %"}]),
        ("data", "mix", [{"path": "a", "weight": 0.7}, {"path": "b"}]),  # what is left of 1
        ("data", "mix", "a:0.7,b:0.3"),
        ("data", "mix", ["a:0.7", "b:0.3"]),
        ("data", "path", [0.7, "a", 0.3, "b"]),
        ("data", "data_path", [0.7, "a", 0.3, "b"]),  # Megatron-LM
        ("", "data_path", "0.7 a 0.3 b"),
        ("data", "data_prefix", [0.7, "a", 0.3, "b"]),  # NeMo
        ("data", "data_prefix", {"train": [0.7, "a", 0.3, "b"], "validation": ["c"]}),
    ],
)
def test_a_blend_keeps_its_paths_and_weights(section: str, key: str, value: Any) -> None:
    data = mended(section, key, value)
    assert [(part.path, part.weight) for part in data.mix] == BLEND
    assert data.path is None


@pytest.mark.parametrize(
    ("section", "key", "value", "path"),
    [
        ("", "datasets", [{"path": "my/a.jsonl"}], "my/a.jsonl"),
        (
            "",
            "datasets",
            [{"path": "my/a.jsonl", "split": "train"}, {"path": "my/b.jsonl"}],
            ("my/a.jsonl", "my/b.jsonl"),
        ),
        ("training", "dataset", "c4", "allenai/c4:en"),
        ("data", "train_data", ["a.txt", "b.txt"], ("a.txt", "b.txt")),
        ("data", "data_prefix", ["/d/my_text_document"], "/d/my_text_document"),
    ],
)
def test_a_list_of_data_sets_keeps_its_paths(section: str, key: str, value: Any, path: Any) -> None:
    data = mended(section, key, value)
    assert (data.path, data.mix) == (path, None)


def test_parts_without_any_weight_weigh_the_same() -> None:
    data = mended("data", "mix", ["a", "b"])
    assert [(part.path, part.weight) for part in data.mix] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("value", [[1, "a"], ["a", 1, "b"], {"a": "much"}, 3, None, [], [["a", "b"]], ""])
def test_what_names_no_blend_is_not_taken_for_one(value: Any) -> None:
    parts = find_parts(value)
    assert parts is None or parts == [("a", 1)]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((0, 0.5), [("b", 0.5)]),  # other programs read nothing of a part of weight 0
        ((0.7, -0.3), BLEND),
        ((-1, None), [("a", 1), ("b", 1)]),
        ((0, 0), [("a", 1), ("b", 1)]),
        ((0, None), [("b", 1)]),
    ],
)
def test_a_weight_that_is_not_above_0_does_not_lose_the_data(
    weights: tuple[float | None, float | None], expected: list[tuple[str, float]]
) -> None:
    value = [{"path": path, "weight": weight} for path, weight in zip("ab", weights, strict=True)]
    for written in (value, [{"path": p["path"]} if p["weight"] is None else p for p in value]):
        data = mended("data", "mix", written)
        assert data.path is None
        assert [(part.path, part.weight) for part in data.mix] == expected


def test_single_part_of_weight_0_is_all_of_the_mixture() -> None:
    (part,) = mended("data", "mix", [{"path": "a", "weight": 0}]).mix
    assert (part.path, part.weight) == ("a", 1)


def test_a_blend_of_another_program_leaves_out_what_has_no_share() -> None:
    data = mended("", "data_path", [0, "a", 1, "b"])
    assert (data.path, data.mix) == ("b", None)


@pytest.mark.parametrize(
    ("section", "key", "value", "field", "expected"),
    [
        ("data", "text_column", "content", "text_field", "content"),  # datasets
        ("", "dataset_text_field", "content", "text_field", "content"),  # TRL
        ("", "sample_packing", True, "packing", "documents"),  # Axolotl
        ("", "neat_packing", True, "packing", "documents"),  # LLaMA-Factory
        ("data", "packing", True, "packing", "documents"),  # TRL
        ("", "packing", True, "packing", "documents"),
        ("data", "reset_attention_mask", False, "packing", "stream"),  # Megatron-LM
    ],
)
def test_a_key_of_records_keeps_its_meaning(
    section: str, key: str, value: Any, field: str, expected: str
) -> None:
    assert getattr(mended(section, key, value), field) == expected


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["chat_template"], "write data.path: d.jsonl, data.format: chat instead of datasets"),
        (["alpaca"], "write data.path: d.jsonl, data.format: prompt instead of datasets"),
    ],
)
def test_the_form_of_axolotls_records_is_a_format(types: list[str], expected: str) -> None:
    written = Written.of(TEXT)
    written.data["datasets"] = [{"path": "d.jsonl", "type": kind} for kind in types]
    (problem,) = written.problems()
    assert problem.fix.startswith(expected)
