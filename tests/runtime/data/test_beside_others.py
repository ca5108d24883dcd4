"""Files that ask for different settings in one corpus: their fixes, followed one after the other, end."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner import Problem, Strategy
from planner.strategy.schema import Data
from runtime.data.chat_template import ChatTemplate
from runtime.data.conversations import ConversationReader
from runtime.data.corpus import Corpus, find_corpus, find_mix
from runtime.data.documents import DocumentReader, TextReader
from runtime.data.survey import survey_corpus
from tests.support.data_strategies import make_strategy
from tests.support.fixes import follow_data_fix
from tests.support.people_files import TEXTS, lines

TEMPLATE = ChatTemplate(
    source="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", special_tokens={}
)
MESSAGES = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": text}] for text in TEXTS]
FILES: dict[str, list[Any]] = {
    "text.jsonl": [{"text": text} for text in TEXTS],
    "content.jsonl": [{"content": text} for text in TEXTS],
    "body.jsonl": [{"meta": {"body": text}} for text in TEXTS],
    "messages.jsonl": [{"messages": messages} for messages in MESSAGES],
    "sharegpt.jsonl": [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": text}]} for text in TEXTS
    ],
    "prompts.jsonl": [{"prompt": "Q", "completion": text} for text in TEXTS],
    "alpaca.jsonl": [{"instruction": "Q", "input": "", "output": text} for text in TEXTS],
}
SPOKEN = [f"user: Q\nassistant: {text}\n" for text in TEXTS]


def reader_of(data: Data) -> DocumentReader:
    if data.format == "text":
        return TextReader(field=data.text_field)
    field = (
        "prompt" if data.format == "prompt" else {"text": "messages"}.get(data.text_field, data.text_field)
    )
    return ConversationReader(format=data.format, field=field, template=TEMPLATE)


def corpus_of(data: Data) -> Corpus:
    if data.mix is None:
        return find_corpus(data.path)
    return find_mix([part.path for part in data.mix], [part.weight for part in data.mix])


def documents(strategy: Strategy) -> list[str] | tuple[Problem, ...]:
    reader = reader_of(strategy.data)
    survey = survey_corpus(corpus_of(strategy.data).sources, reader)
    if survey.problems:
        return survey.problems
    items = [item for source in survey.sources for item in reader.read(source)]
    return [item.text for item in items if not isinstance(item, Problem)]


def follow(strategy: Strategy, folder: Path, *written: str) -> tuple[Strategy, list[str]]:
    """The strategy after its first fixes were followed, and what it trains; no place comes twice."""
    places = set()
    overrides = dict(text.split("=", 1) for text in written)
    for _ in range(4):
        found = documents(strategy)
        if isinstance(found, list):
            return strategy, found
        problem = found[0]
        assert (problem.file, problem.code) not in places, problem
        places.add((problem.file, problem.code))
        overrides |= dict(text.split("=", 1) for text in follow_data_fix(problem.fix))
        strategy = make_strategy(folder, None, *(f"{key}={value}" for key, value in overrides.items()))
    raise AssertionError(problem)


def written(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_bytes(lines(FILES[name]))
    return [str(folder / name) for name in names]


@pytest.mark.parametrize("is_mix", [False, True], ids=["list", "mix"])
@pytest.mark.parametrize(
    "names",
    [
        ("text.jsonl", "content.jsonl"),
        ("content.jsonl", "text.jsonl"),
        ("content.jsonl", "body.jsonl"),
        ("body.jsonl", "content.jsonl"),
        ("content.jsonl", "text.jsonl", "body.jsonl"),
    ],
)
def test_texts_under_different_keys_are_trained_together(
    tmp_path: Path, names: tuple[str, ...], is_mix: bool
) -> None:
    paths = written(tmp_path, *names)
    mix = [{"path": path, "weight": number} for number, path in enumerate(paths, start=1)]
    override = f"data.mix={json.dumps(mix)}" if is_mix else f"data.path={json.dumps(paths)}"
    strategy, found = follow(make_strategy(tmp_path, None, override), tmp_path, override)
    assert found == list(TEXTS) * len(names)
    if is_mix:
        assert strategy.data.mix is not None
        assert [part.weight for part in strategy.data.mix] == list(range(1, len(names) + 1))


@pytest.mark.parametrize("format", ["text", "chat", "prompt"])
@pytest.mark.parametrize(
    "names",
    [
        ("messages.jsonl", "sharegpt.jsonl"),
        ("messages.jsonl", "prompts.jsonl"),
        ("prompts.jsonl", "messages.jsonl"),
        ("messages.jsonl", "alpaca.jsonl"),
        ("alpaca.jsonl", "sharegpt.jsonl", "prompts.jsonl"),
    ],
)
def test_conversations_of_different_kinds_are_trained_together(
    tmp_path: Path, names: tuple[str, ...], format: str
) -> None:
    paths = written(tmp_path, *names)
    overrides = [f"data.path={json.dumps(paths)}", "data.tokenizer=tok", f"data.format={format}"]
    _, found = follow(make_strategy(tmp_path, None, *overrides), tmp_path, *overrides)
    assert found == SPOKEN * len(names)


@pytest.mark.parametrize(
    ("names", "format", "kept"),
    [
        (("text.jsonl", "messages.jsonl"), "text", list(TEXTS)),
        (("text.jsonl", "alpaca.jsonl"), "text", list(TEXTS)),
        (("messages.jsonl", "text.jsonl"), "chat", SPOKEN),
        (("content.jsonl", "messages.jsonl"), "text", list(TEXTS)),
    ],
)
def test_conversations_beside_texts_are_left_out(
    tmp_path: Path, names: tuple[str, ...], format: str, kept: list[str]
) -> None:
    paths = written(tmp_path, *names)
    overrides = [f"data.path={json.dumps(paths)}", "data.tokenizer=tok", f"data.format={format}"]
    strategy = make_strategy(tmp_path, None, *overrides)
    problems = documents(strategy)
    assert isinstance(problems[-1], Problem)
    assert "in a run of its own" in problems[-1].fix
    assert follow(strategy, tmp_path, *overrides)[1] == kept


def test_all_fixes_of_one_answer_agree(tmp_path: Path) -> None:
    """Of files that none of the settings fits, the first one's fix decides."""
    strategy = make_strategy(tmp_path, written(tmp_path, "content.jsonl", "body.jsonl", "messages.jsonl"))
    first, second, third = documents(strategy)
    assert isinstance(first, Problem)
    assert isinstance(second, Problem)
    assert isinstance(third, Problem)
    assert follow_data_fix(first.fix) == ("data.text_field=content",)
    assert follow_data_fix(second.fix)[0] == "data.text_field=content"
    assert "leave it out" in third.fix


def test_shards_with_the_same_key_keep_the_setting_as_their_fix(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_bytes(lines(FILES["content.jsonl"]))
    problems = documents(make_strategy(tmp_path, tmp_path))
    fixes = {problem.fix for problem in problems if isinstance(problem, Problem)}
    assert fixes == {"write data.text_field=content, or leave the file out of data.path"}
