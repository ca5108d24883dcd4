"""Prompts, answers and turns under other names: the printed command makes of them what is read."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.data.test_conversations import ANSWER, TALKS, opened, problems, write_lines
from tests.support.fixes import run_fix

COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "Alpaca": ({"instruction": "Add", "input": "1, 2", "output": ANSWER}, "Add\n\n1, 2"),
    "Alpaca without input": ({"instruction": "Add", "input": "", "output": ANSWER}, "Add"),
    "preferences": ({"prompt": "Add", "chosen": ANSWER, "rejected": "no"}, "Add"),
    "questions": ({"question": "Add", "answer": ANSWER}, "Add"),
    "messages chosen": (
        {
            "prompt": "Add",
            "chosen": [{"role": "user", "content": "Add"}, {"role": "assistant", "content": ANSWER}],
        },
        "Add",
    ),
}


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (kind, form)
        for kind in COLUMNS
        for form in ("lines", "array", "csv", "parquet")
        if (kind, form) != ("messages chosen", "csv")  # a CSV has texts only
    ],
)
def test_columns_of_other_names_are_renamed_by_the_fix(tmp_path: Path, kind: str, form: str) -> None:
    record, prompt = COLUMNS[kind]
    file = tmp_path / "my data"
    if form == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist([record] * 40), file)
    elif form == "csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(record))
            writer.writeheader()
            writer.writerows([record] * 40)
    elif form == "array":
        file.write_text(json.dumps([record] * 40))
    else:
        write_lines(file, [record] * 40)
    (problem,) = problems(tmp_path, file, format="prompt")
    renamed = run_fix(problem.fix.replace("data.format=prompt ", ""))
    read = [json.loads(line) for line in renamed.read_text().splitlines()]
    answer = [{"role": "assistant", "content": ANSWER}] if kind == "messages chosen" else ANSWER
    assert read == [{"prompt": prompt, "completion": answer}] * 40
    assert opened(tmp_path, renamed, format="prompt").num_train_sequences > 0
    (problem,) = problems(tmp_path, file, format="text")  # the answers alone are another text
    if kind == "messages chosen":  # a conversation by itself
        assert problem.fix.startswith("write data.text_field=chosen data.format=chat ")
        return
    assert problem.fix.startswith("rename its keys: ")
    assert "data.format=prompt" in problem.fix
    assert run_fix(problem.fix.replace("data.format=prompt ", "")) == renamed


def test_prompts_and_completions_as_text_are_told_their_format(tmp_path: Path) -> None:
    records = [{"prompt": t[0]["content"], "completion": t[1]["content"]} for t in TALKS]
    (problem,) = problems(tmp_path, write_lines(tmp_path / "a.jsonl", records), format="text")
    assert problem.fix.startswith("write data.format=prompt and a data.tokenizer with a chat template,")


@pytest.mark.parametrize("format", ["text", "chat", "prompt"])
def test_texts_in_turn_become_messages_by_the_fix(tmp_path: Path, format: str) -> None:
    """As UltraChat is published: the user's and the assistant's texts, one after the other."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "0", "data": ["Add", ANSWER, "More", ANSWER]}] * 40)
    (problem,) = problems(tmp_path, file, format=format)
    converted = run_fix(problem.fix.replace("data.format=chat ", ""))
    roles = ("user", "assistant", "user", "assistant")
    messages = [
        {"role": role, "content": text}
        for role, text in zip(roles, ("Add", ANSWER, "More", ANSWER), strict=True)
    ]
    assert [json.loads(line) for line in converted.read_text().splitlines()] == [{"messages": messages}] * 40
    assert opened(tmp_path, converted).num_train_sequences > 0
