"""YAML as YAML 1.2 means it, duplicate keys, aliases, merges, and texts that are not YAML."""

import math

import pytest

from planner import yaml12
from planner.yaml12 import Document
from planner.yaml12_scalars import resolve_scalar


def read(text: str) -> object:
    document = Document(text, "f.yaml")
    assert document.problems == []
    assert document.root is not None
    return document.root.plain()


def faults(text: str) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.code) for problem in Document(text, "f.yaml").problems]


# From the YAML 1.2.2 specification, section 10.3.2, and where YAML 1.1 differs.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("+12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        (".5", 0.5),
        ("-2.", -2.0),
        ("12e03", 12000.0),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("10:30", "10:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("tRue", "tRue"),
        ("-.inf", -math.inf),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    found = resolve_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalar_is_text() -> None:
    assert read("a: '3e-4'\nb: \"null\"\nc: !!str 3\n") == {"a": "3e-4", "b": "null", "c": "3"}


def test_explicit_tags_of_plain_values_are_read() -> None:
    assert read("a: !!int 3\nb: !!float 3\nc: !!bool true\n") == {"a": 3, "b": 3, "c": True}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!timestamp", "!mine", "!!int"])
def test_other_tags_are_refused(tag: str) -> None:
    assert faults(f"a: 1\nb: {tag} x\n") == [(2, "SW105")]


def test_duplicate_keys_at_any_depth_name_both_lines() -> None:
    text = "a: 1\nb:\n  c: 1\n  d: {e: 1,\n    e: 2}\n  c: 3\na: 4\n"
    problems = Document(text, "f.yaml").problems
    assert [(p.line, p.path, p.code, p.found[-6:]) for p in problems] == [
        (5, "b.d.e", "SW106", "line 4"),
        (6, "b.c", "SW106", "line 3"),
        (7, "a", "SW106", "line 1"),
    ]


def test_alias_gives_the_value_of_its_anchor() -> None:
    assert read("a: &x {k: 1}\nb: *x\n") == {"a": {"k": 1}, "b": {"k": 1}}


def test_merge_fills_in_what_is_not_written() -> None:
    text = "base: &b {p: 1, q: 1}\nother: &o {q: 2, r: 2}\nc: {<<: [*b, *o], p: 3}\n"
    assert read(text)["c"] == {"p": 3, "q": 1, "r": 2}  # type: ignore[index]


def test_merge_of_something_else_is_a_problem() -> None:
    assert faults("a: {<<: 3}\n") == [(1, "SW105")]


def test_alias_inside_its_anchor_is_a_problem() -> None:
    assert faults("a: &x\n  b: *x\n") == [(2, "SW105")]


def test_nested_aliases_are_counted_as_what_they_refer_to() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    # Line n has 9^n texts, and 9 + 81 + … + 9^5 = 66,429 are fewer than 100,000 and 9^6 more; all nodes of
    # lines 1 to 5: 74,728.
    assert faults("\n".join(lines[:5])) == []
    assert faults("\n".join(lines)) == [(5, "SW108")]  # the anchor of the aliases in line 6


def test_merging_an_alias_many_times_is_bounded() -> None:
    text = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(999)) + "}\nb: {<<: [" + "*a, " * 120 + "]}"
    assert faults(text) == [(2, "SW108")]  # 120 × 1,000 values


def test_a_text_of_too_many_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml12, "MAX_VALUES", 1000)
    assert faults("a: [" + "1," * 998 + "]") == []  # with the list and the mapping 1,000
    assert faults("a: [" + "1," * 999 + "]") == [(1, "SW108")]


def test_an_override_has_no_comments() -> None:
    document = Document("[/my #1 corpus, '#x', {a b: c #d}]", None, override="data.path=…")
    assert document.root is not None
    assert document.root.plain() == ("/my #1 corpus", "#x", {"a b": "c #d"})
    assert Document("[a] #b", None, override="x=…").problems[0].found.endswith("but found '<scalar>'")


def test_keys_are_text() -> None:
    assert faults("1: a\ntrue: b\nno: c\n? [x]\n: d\n~: e\n") == [(line, "SW104") for line in (1, 2, 4, 6)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 'x\n", 2),
        ("a: *none\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
    ],
)
def test_what_is_no_yaml_is_one_problem_with_a_line(text: str, line: int) -> None:
    assert faults(text) == [(line, "SW102")]


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "a: \x00\n", "[" * 1000])
def test_hopeless_text_is_one_problem(text: str) -> None:
    document = Document(text, "f.yaml")
    assert len(document.problems) == 1 or document.root is not None


def test_unpaired_surrogate_is_a_problem() -> None:
    assert faults('a: "\\ud800"') == [(1, "SW107")]


def test_endless_number_is_a_problem() -> None:
    assert faults("a: " + "9" * 5000) == [(1, "SW107")]
