"""Answers beside a text are told, with the command that makes prompts and completions of both."""

from pathlib import Path
from typing import Any

import pytest

from runtime.data.beside_text import find_answers_beside
from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader
from runtime.data.prepare import prepare_data
from runtime.data.survey import survey_corpus
from tests.runtime.data.test_people_files import talks_of
from tests.support.data_strategies import make_strategy
from tests.support.fixes import follow_data_fix
from tests.support.people_files import TEXTS, lines
from tests.support.talk_files import ASKED, both, talks_of_pairs

MBPP: list[dict[str, Any]] = [
    {"text": asked, "code": text, "test_list": ["assert f() == 1"]} for asked, text in both()
]


def warnings_of(tmp_path: Path, records: list[dict[str, Any]], field: str = "text") -> list[str]:
    file = tmp_path / "mbpp.jsonl"
    file.write_bytes(lines(records))
    sources = survey_corpus(find_corpus(str(file)).sources, TextReader(field=field)).sources
    return list(find_answers_beside(sources, field))


def test_code_beside_the_text_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mbpp.jsonl"
    file.write_bytes(lines(MBPP * 40))
    prepare_data(make_strategy(tmp_path, file, "training.steps=1"))
    (warned,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("SW750")]
    assert f"'text' of {file}" in warned
    assert "'code'" in warned


@pytest.mark.parametrize("field", ["text", "question"])
def test_fix_leads_to_prompts_and_their_answers(tmp_path: Path, field: str) -> None:
    records = [{field: asked, "response": text} for asked, text in both()]
    (warning,) = warnings_of(tmp_path, records, field)
    overrides = follow_data_fix(warning.partition("; ")[2])
    strategy = make_strategy(tmp_path, None, "data.tokenizer=tok", *overrides)
    assert talks_of(strategy) == talks_of_pairs()


@pytest.mark.parametrize(
    "records",
    [
        [{"text": f"{asked} {text}", "instruction": asked, "response": text} for asked, text in both()],
        [{"text": text, "summary": "It was high."} for text in TEXTS],
        [{"text": text, "code": "deu"} for text in TEXTS],
        [{"text": text, "label": 1} for text in TEXTS],
        [{"text": asked, "response": None} for asked in ASKED],
    ],
    ids=["contained", "summary", "language", "label", "null"],
)
def test_text_that_is_complete_is_not_warned_of(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    assert warnings_of(tmp_path, records) == []
