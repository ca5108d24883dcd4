"""Keys at another level or in another case: one Problem for one cause, and what its fix makes of them."""

import re
import textwrap

import pytest

from planner import Problem, StrategyError, loads
from planner.yaml12 import Document
from tests.support.examples import TEXT
from tests.support.fixes import Written


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as caught:
        loads(text, file="f.yaml")
    return caught.value.problems


def test_sections_inside_one_key_are_one_problem() -> None:
    text = "strategy:\n" + textwrap.indent(TEXT, "  ")
    (problem,) = problems_of(text)
    assert (problem.code, problem.path, problem.line) == ("SW128", "strategy", 1)
    assert problem.fix == "remove the line `strategy:`, and indent the lines below it one level less"
    assert loads(textwrap.dedent(text.partition("\n")[2])) == loads(TEXT)


FLAT = re.sub(r"^(cluster|model|training):\n", "", TEXT, flags=re.MULTILINE).replace("\n  ", "\n")
SECTIONS = ["cluster", "model", "training"]


@pytest.mark.parametrize(
    "text",
    [
        FLAT,
        TEXT.replace("  seq_length", "seq_length").replace("  global", "global").replace("  steps", "steps"),
        "name: small\n"
        + "".join(
            f"{section}.{line.strip()}\n"
            for section, body in re.findall(r"^(\w+):\n((?:  .*\n)+)", TEXT, re.MULTILINE)
            for line in body.splitlines()
        ),
    ],
    ids=["flat", "one section not indented", "dotted"],
)
def test_keys_outside_of_their_sections_are_one_problem(text: str) -> None:
    (problem,) = problems_of(text)
    assert problem.code == "SW128"
    head, _, moved = problem.fix.partition(": ")
    assert head == "move into their sections"
    written = Written.of(text).data
    root = Document(re.sub(r"(?<=\}), (?=(?:model|training): \{)", "\n", moved), None).root
    assert root is not None
    data = {key: value for key, value in written.items() if key in ("name", *SECTIONS) and value is not None}
    assert Written({**data, **root.plain()}).load() == loads(TEXT)


def test_one_dotted_key_in_a_section_is_told_its_own() -> None:
    (problem,) = problems_of(TEXT + "output: {folder: x}\ntraining.optimizer: {eps: 1.0e-6}\n")
    assert problem.fix == "move into their sections: training: {optimizer: {eps: 1e-06}}"
    (problem,) = problems_of(TEXT.replace("steps: 100", "steps: 100\n  optimizer.eps: 1.0e-6"))
    assert problem.fix == "move into their sections: training: {optimizer: {eps: 1e-06}}"


def test_two_keys_outside_are_told_one_by_one() -> None:
    assert [p.code for p in problems_of(TEXT + "ep: 2\nfolder: x\n")] == ["SW111", "SW111"]


@pytest.mark.parametrize(
    "respell",
    [
        lambda key: re.sub(r"_(\w)", lambda match: match[1].upper(), key),
        str.upper,
        lambda key: key.replace("_", "-"),
    ],
    ids=["numExperts", "NUM_EXPERTS", "num-experts"],
)
def test_keys_in_another_case_are_one_problem(respell) -> None:  # type: ignore[no-untyped-def]
    keys = ("num_experts", "hidden_size", "vocab_size", "seq_length")
    text = TEXT
    for key in keys:
        text = text.replace(f"  {key}:", f"  {respell(key)}:")
    (problem,) = problems_of(text)
    assert problem.code == "SW128"
    names, _, others = problem.fix.removeprefix("write ").partition(" instead of ")
    for new, old in zip(names.split(", "), others.split(", "), strict=True):
        text = text.replace(f"  {old.partition('.')[2]}:", f"  {new.partition('.')[2]}:")
    assert loads(text) == loads(TEXT)


def test_other_mistakes_are_told_too() -> None:
    found = problems_of(FLAT.replace("steps: 100", "steps: 100 steps") + "ep: 3\n")
    assert [p.code for p in found] == ["SW128", "SW113", "SW201"]


def test_keys_that_other_programs_have_too_keep_their_meaning() -> None:
    """bf16 is DeepSpeed's precision, not the peak of a GPU; its optimizer has parameters of its own."""
    given = "bf16: {enabled: true}\noptimizer: {type: Adam, params: {lr: 1.0e-4}}\ngradient_clipping: 0.5\n"
    fixes = [problem.fix for problem in problems_of(TEXT + given)]
    assert [fix.partition(" instead")[0] for fix in fixes] == [
        "write training.precision: bf16",
        "write training.learning_rate: 0.0001",
        "write training.gradient_clipping: 0.5",
    ]
