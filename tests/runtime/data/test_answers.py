"""Conversations without an answer or with a bad one, and what is no conversation: counted, and fixed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.data.test_conversations import TALKS, opened, problems, write_lines
from tests.support.data_strategies import words
from tests.support.fixes import follow_data_fix


def rejecting(records: list[dict[str, Any]], key: str, value: Any) -> list[dict[str, Any]]:
    """Each record twice: as it is, and with another answer that the record calls bad."""
    return [each for record in records for each in (record, {**record, key: value})]


@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize("format", ["chat", "prompt"])
def test_answers_that_are_marked_as_bad_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, format: str
) -> None:
    """As TRL's and LLaMA-Factory's data for KTO have them."""
    if format == "chat":
        records: list[dict[str, Any]] = [{"messages": talk, key: True} for talk in TALKS]
    else:
        records = [{"prompt": t[0]["content"], "completion": t[1]["content"], key: True} for t in TALKS]
    good = opened(tmp_path, write_lines(tmp_path / "a.jsonl", records), format=format)
    both = rejecting(records, key, False)
    data = opened(tmp_path, write_lines(tmp_path / "b.jsonl", both), format=format)
    assert np.array_equal(data.tokens, good.tokens)
    assert "SW748 answers that are marked as bad were left out (24 of 48)" in caplog.text
    (problem,) = problems(tmp_path, write_lines(tmp_path / "c.jsonl", both[1::2]), format=format)
    assert (problem.code, "24 answers that are marked as bad" in problem.found) == ("SW712", True)


def test_label_of_a_class_is_no_judgement_of_the_answer(tmp_path: Path) -> None:
    records = [{"messages": talk, "label": number % 2} for number, talk in enumerate(TALKS)]
    data = opened(tmp_path, write_lines(tmp_path / "a.jsonl", records))
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", [{"messages": talk} for talk in TALKS]))
    assert np.array_equal(data.tokens, plain.tokens)


def test_conversations_that_lost_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of Chatbot Arena one of the two columns is named: what lost there, or drew, is no answer."""
    won = [{"conversation_a": talk, "conversation_b": TALKS[0], "winner": "model_a"} for talk in TALKS]
    others = [{**record, "winner": winner} for record in won[:3] for winner in ("model_b", "tie (bothbad)")]
    a = opened(tmp_path, write_lines(tmp_path / "a.jsonl", won + others), "data.text_field=conversation_a")
    assert "SW748 answers that are marked as bad were left out (6 of 30)" in caplog.text
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", [{"messages": talk} for talk in TALKS]))
    assert np.array_equal(a.tokens, plain.tokens)


@pytest.mark.parametrize(
    "roles", [("Human", "Bot"), ("customer", "agent"), ("Ann", "Ben"), ("user", "system")]
)
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_roles_of_other_names_are_renamed_by_the_fix(
    tmp_path: Path, roles: tuple[str, str], keys: tuple[str, str]
) -> None:
    names = dict(zip(("user", "assistant"), roles, strict=True))
    talks = [[{keys[0]: names[m["role"]], keys[1]: m["content"]} for m in talk] for talk in TALKS]
    (tmp_path / "a").mkdir()
    file = write_lines(tmp_path / "a" / "a.jsonl", [{"id": 1, "conversation": talk} for talk in talks])
    (problem,) = problems(tmp_path, file, "data.text_field=conversation")
    assert (problem.code, problem.file) == ("SW726", str(file))
    overrides = follow_data_fix(problem.fix)
    path = next(each for each in overrides if each.startswith("data.path=")).partition("=")[2]
    assert [each for each in overrides if "path" not in each] == ["data.text_field=text"]
    fixed = opened(tmp_path, Path(path))
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", [{"messages": talk} for talk in TALKS]))
    assert np.array_equal(fixed.tokens, plain.tokens)


def test_conversations_without_answers_are_left_out_by_the_fix(tmp_path: Path) -> None:
    records = [{"messages": talk} for talk in TALKS]
    file = write_lines(tmp_path / "a.jsonl", [*records, *[{"messages": TALKS[0][:1]}] * 30])
    (problem,) = problems(tmp_path, file)
    assert problem.code == "SW726"
    (override,) = (each for each in follow_data_fix(problem.fix) if each.startswith("data.path="))
    fixed = opened(tmp_path, Path(override.partition("=")[2]))
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", records))
    assert np.array_equal(fixed.tokens, plain.tokens)


@pytest.mark.parametrize("format", ["chat", "prompt"])
@pytest.mark.parametrize("key", ["text", "body"])
def test_records_without_conversations_are_read_as_text_by_the_fix(
    tmp_path: Path, format: str, key: str
) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"id": n, key: words(30, seed=n)} for n in range(9)])
    (problem,) = problems(tmp_path, file, format=format)
    assert follow_data_fix(problem.fix) == ("data.format=text", f"data.text_field={key}")
    prose = tmp_path / "a.txt"
    prose.write_text(words(90))
    (problem,) = problems(tmp_path, prose, format=format)
    assert follow_data_fix(problem.fix) == ("data.format=text", "data.text_field=text")


def test_messages_of_other_keys_are_converted_by_the_fix(tmp_path: Path) -> None:
    """As a chat program exports one conversation: its messages have senders and texts."""
    names = {"user": "Ann", "assistant": "Ben"}
    talk = [{"id": 1, "from": names[m["role"]], "text": m["content"]} for m in [m for t in TALKS for m in t]]
    file = write_lines(tmp_path / "a.json", [{"name": "Ben", "messages": talk}])
    (problem,) = problems(tmp_path, file)
    assert problem.found.startswith("message 1 of 'messages' has no role")
    (override,) = (each for each in follow_data_fix(problem.fix) if each.startswith("data.path="))
    converted = [json.loads(line) for line in Path(override.partition("=")[2]).read_text().splitlines()]
    assert converted == [{"messages": [m for t in TALKS for m in t]}]


def test_documents_inside_others_are_read_as_text_by_the_fix(tmp_path: Path) -> None:
    documents = [{"body": words(40, seed=n)} for n in range(9)]
    nested = write_lines(tmp_path / "a.json", [{"version": 1, "data": documents}])
    lists = write_lines(tmp_path / "b.jsonl", [documents[:4], documents[4:]])
    for file in (nested, lists):
        (problem,) = problems(tmp_path, file)
        overrides = follow_data_fix(problem.fix)
        assert {"data.format=text", "data.text_field=body"} <= set(overrides)


def test_lists_of_messages_are_converted_by_the_fix_of_chat_too(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", TALKS)
    (problem,) = problems(tmp_path, file)
    overrides = follow_data_fix(problem.fix)
    assert "data.format=prompt" not in overrides
    path = next(each for each in overrides if each.startswith("data.path=")).partition("=")[2]
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", [{"messages": talk} for talk in TALKS]))
    assert np.array_equal(opened(tmp_path, Path(path)).tokens, plain.tokens)
