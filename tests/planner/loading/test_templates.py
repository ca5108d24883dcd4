"""Values that another program would fill in: one Problem for all of them, with what they come to."""

from pathlib import Path

import pytest

from planner import Problem, StrategyError, loads
from tests.support.examples import TEXT
from tests.support.fixes import Written, apply_fix, settle


def problems_of(text: str, *overrides: str) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as caught:
        loads(text, overrides, file="f.yaml")
    return caught.value.problems


def test_interpolations_are_one_problem_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", "first")
    text = TEXT + (
        "parallel: {ep: '${.tp}', tp: 2, dp: '${cluster.hosts}'}\n"
        "output: {folder: 'out/${oc.env:RUN}/${name}', validate_every: '${training.steps}'}\n"
        "data: {path: '${oc.env:NOWHERE,texts}', validation_sequences: '${multiply:${parallel.tp}, 4}'}\n"
    )
    (problem,) = problems_of(text)
    assert (problem.code, problem.line) == ("SW127", 18)
    assert problem.fix == (
        "write parallel.ep: 2, parallel.dp: 16, output.folder: out/first/small, output.validate_every: 100, "
        "data.path: texts, data.validation_sequences: 8"
    )
    mended, _ = apply_fix(Written.of(text), problem)
    assert mended.load() == loads(
        TEXT
        + "parallel: {ep: 2, tp: 2, dp: 16}\noutput: {folder: out/first/small, validate_every: 100}\n"
        + "data: {path: texts, validation_sequences: 8}\n"
    )


def test_other_mistakes_are_told_beside_them() -> None:
    found = problems_of(TEXT + "parallel: {ep: '${model.num_experts}', tp: 3}\n")
    assert [(p.code, p.path) for p in found] == [
        ("SW127", None),
        ("SW202", "parallel.tp"),
    ]


@pytest.mark.parametrize(
    "value", ["${nowhere.to.find}", "${training.steps}", "${now:%Y}", "{{ steps }}", "$NOT_SET"]
)
def test_what_cannot_be_resolved_is_asked(value: str) -> None:
    """Also a value that refers to itself."""
    text = TEXT.replace("steps: 100", f"steps: '{value}'")
    (problem,) = problems_of(text)
    assert problem.code == "SW127"
    assert problem.fix == "write training.steps: 1000, with your values for training.steps"
    assert settle(Written.of(text)) == loads(TEXT, ["training.steps=1000"])


def test_an_override_has_a_problem_of_its_own() -> None:
    found = problems_of(TEXT, "training.warmup_steps=${training.steps}")
    assert [(p.code, p.override) for p in found] == [("SW127", "training.warmup_steps=${training.steps}")]
    assert settle(Written.of(TEXT, "output.keep_every=${training.steps}")) == loads(
        TEXT, ["output.keep_every=100"]
    )


def test_what_a_shell_expands_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    text = TEXT + "launch: {prologue: ['export A=${HOME}']}\noutput: {folder: '${SCRATCH}/runs'}\n"
    assert loads(text).output.folder == "/scratch/runs"


def test_marks_of_a_template_are_named() -> None:
    (problem,) = problems_of(TEXT + "parallel: {{ layout }}\n")
    assert (problem.code, problem.line) == ("SW127", 18)
    assert "{{ layout }}" in problem.found


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("---\nparallel: {ep: 2}\n", "parallel: {ep: 2}\n"),  # its sections are parts of the same
        ("---\n", ""),
        ("...\n---\nparallel: {ep: 2}\n", None),
    ],
)
def test_documents_that_are_parts_of_one_become_one(more: str, expected: str | None) -> None:
    (problem,) = problems_of(TEXT + more)
    assert problem.code == "SW102"
    assert "2 YAML documents" in problem.found
    if expected is not None:
        lines = (TEXT + more).splitlines(keepends=True)
        assert problem.fix.startswith("remove this line")
        assert problem.line is not None
        del lines[problem.line - 1]
        assert loads("".join(lines)) == loads(TEXT + expected)


def test_two_strategies_in_one_file_are_two_files() -> None:
    (problem,) = problems_of(f"{TEXT}---\n{TEXT}")
    assert problem.fix == "give each document a file of its own, without the line ---"


def test_interpolations_of_another_program_are_resolved(tmp_path: Path) -> None:
    given = tmp_path / "nemo.yaml"
    given.write_text(
        "trainer: {devices: 8, num_nodes: 16, max_steps: 700}\n"
        "model: {hidden_size: 1024, encoder_seq_length: 512,\n"
        "  max_position_embeddings: '${.encoder_seq_length}',\n"
        "  ffn_hidden_size: '${multiply:2, ${.hidden_size}}', micro_batch_size: '${nowhere}'}\n"
    )
    loaded = loads(TEXT, model_from=str(given))
    assert (loaded.model.moe_intermediate_size, loaded.training.steps) == (2048, 700)
    assert any(text.startswith("model.micro_batch_size: ${nowhere}") for text in loaded.sources.left_out)
