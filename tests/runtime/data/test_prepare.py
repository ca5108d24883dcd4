"""Prepared data: tokens, hashes, and the Problems of data that cannot be used."""

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest

from planner import Problem, Strategy, StrategyError
from runtime.data import open_data, prepare_data
from tests.support.data_strategies import make_strategy, words, write_corpus


def problems(strategy: Strategy) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as caught:
        prepare_data(strategy)
    return caught.value.problems


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def test_tokens_are_the_documents_joined_by_the_end_of_text(tmp_path: Path) -> None:
    documents = [words(200), "日本語 🎉\r\n", "", "it says <|endoftext|> itself", "last"]
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number}.txt").write_bytes(document.encode())
    strategy = make_strategy(tmp_path, folder)
    prepare_data(strategy)
    data = open_data(strategy)
    ends = np.flatnonzero(data.tokens == data.end_of_text)
    assert len(ends) == 4
    assert ends[-1] == len(data.tokens) - 1
    starts = [0, *(ends[:-1] + 1)]
    read = [data.tokenizer().decode(data.tokens[a:b].tolist()) for a, b in zip(starts, ends, strict=True)]
    assert read == [document for document in documents if document]


def test_entry_does_not_depend_on_the_path_of_the_text(tmp_path: Path, corpus: Path) -> None:
    other = write_corpus(tmp_path / "elsewhere" / "renamed")
    first, second = make_strategy(tmp_path / "one", corpus), make_strategy(tmp_path / "two", other)
    assert prepare_data(first).name == prepare_data(second).name
    a, b = open_data(first), open_data(second)
    assert (a.content_hash, a.tokenizer_hash) == (b.content_hash, b.tokenizer_hash)
    assert np.array_equal(a.tokens, b.tokens)


@pytest.mark.parametrize("change", ["model.vocab_size=290", "data.validation_sequences=4", "text"])
def test_content_hash_changes_with_what_is_read(tmp_path: Path, corpus: Path, change: str) -> None:
    before = make_strategy(tmp_path, corpus)
    prepare_data(before)
    content_hash = open_data(before).content_hash
    if change == "text":
        (corpus / "3.txt").write_text(words(60, seed=99))
    after = make_strategy(tmp_path, corpus, *([change] if change != "text" else []))
    prepare_data(after)
    assert open_data(after).content_hash != content_hash


def test_content_hash_ignores_the_training_section(tmp_path: Path, corpus: Path) -> None:
    """The fingerprint that a resume compares covers `training` by itself."""
    hashes = set()
    for change in ("training.seed=1", "training.seed=2", "training.seq_length=8", "training.global_batch=8"):
        strategy = make_strategy(tmp_path, corpus, change)
        prepare_data(strategy)
        hashes.add(open_data(strategy).content_hash)
    assert len(hashes) == 1


def test_large_vocabulary_is_stored_in_four_bytes(tmp_path: Path, corpus: Path) -> None:
    from tests.runtime.data.test_tokenizer import word_tokenizer

    filling = [f"w{number}" for number in range(70_000)]
    word_tokenizer("<unk>", *filling, "</s>").save(str(tmp_path / "t.json"))
    (corpus / "0.txt").write_text("w69999 w0 " * 500)
    strategy = make_strategy(
        tmp_path, corpus / "0.txt", f"data.tokenizer={tmp_path}/t.json", "model.vocab_size=70002"
    )
    prepare_data(strategy)
    data = open_data(strategy)
    assert data.tokens.dtype == np.uint32
    assert data.tokens[:3].tolist() == [70_000, 1, 70_000]
    assert data.tokens[-1] == data.end_of_text == 70_001


def test_too_little_data_is_a_problem_with_both_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(bytes([32 + i % 90]) * (1 + i % 2) for i in range(70)))
    (problem,) = problems(make_strategy(tmp_path, tmp_path / "a.txt"))
    # 105 bytes, no pair of them twice, and the end of text: 106 tokens; less 3 × 2, that is 6 times 16.
    assert problem.code == "SW713"
    assert [int(number) for number in re.findall(r"\d+", problem.found)] == [6, 16, 106]
    assert [int(number) for number in re.findall(r"\d+", problem.expected)] == [7, 3, 4]


def test_data_of_exactly_one_batch_are_accepted(tmp_path: Path) -> None:
    from tests.runtime.data.test_tokenizer import word_tokenizer

    word_tokenizer("<unk>", "a", "</s>").save(str(tmp_path / "t.json"))
    tokens = 7 * 16 + 2 * 3  # seven sequences, two tokens more for each held out
    for num_words, accepted in ((tokens - 1, True), (tokens - 2, False)):
        (tmp_path / "a.txt").write_text("a " * num_words)
        strategy = make_strategy(tmp_path, tmp_path / "a.txt", f"data.tokenizer={tmp_path}/t.json")
        if accepted:
            prepare_data(strategy)
            assert open_data(strategy).num_train_sequences == 4
        else:
            (problem,) = problems(strategy)
            assert problem.code == "SW713"
            assert "6 sequences" in problem.found


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": 1}\n{"text": 2}\n')
    paths = [tmp_path / "bad.jsonl", f"{tmp_path}/*.none", tmp_path / "gone.txt"]
    found = problems(make_strategy(tmp_path, paths, "model.vocab_size=256"))
    assert sorted(problem.code for problem in found) == ["SW701", "SW702", "SW708", "SW708", "SW735"]
    assert [problem.line for problem in found if problem.code == "SW708"] == [2, 3]


@pytest.mark.parametrize("content", [b"", b"\0"])
def test_data_without_text_are_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(content)
    (problem,) = problems(make_strategy(tmp_path, tmp_path / "data"))
    assert problem.code == "SW712"


def test_unusable_tokenizer_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (problem,) = problems(make_strategy(tmp_path, corpus, "data.tokenizer=nowhere"))
    assert (problem.code, problem.path) == ("SW731", "data.tokenizer")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (corpus / "2.txt").chmod(0)
    (problem,) = problems(make_strategy(tmp_path, corpus))
    assert problem.code == "SW705"
    assert "2.txt: SW705 data.path: cannot be read: Permission denied" in str(problem)


def test_dangling_link_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (corpus / "7.txt").symlink_to(tmp_path / "gone")
    (problem,) = problems(make_strategy(tmp_path, corpus))
    assert "7.txt: SW705 data.path: cannot be read: No such file" in str(problem)


def test_reading_data_more_than_once_gives_a_warning_with_the_count(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = make_strategy(tmp_path, corpus, "training.steps=1000")
    prepare_data(strategy)
    data = open_data(strategy)
    assert data.epochs(1000) == 4000 / data.num_train_sequences > 1
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith("SW717")
    assert f"{4000 / data.num_train_sequences:.2f} times" in warning.getMessage()


def test_run_within_one_epoch_gives_no_warning(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_data(make_strategy(tmp_path, corpus, "training.steps=1"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_warnings_are_repeated_by_a_later_start(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (corpus / "picture").write_bytes(b"\x89PNG\0")
    strategy = make_strategy(tmp_path, corpus, "model.vocab_size=9000", "training.steps=1")
    for _ in range(2):
        caplog.clear()
        prepare_data(strategy)
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [text[:5] for text in warned] == ["SW719", "SW721"]
        assert str(corpus / "picture") in warned[0]


@pytest.mark.parametrize(
    ("text", "is_warned"),
    [
        (" ".join(str(n * 7919 % 50257) for n in range(4000)), True),
        ("".join(f"{n * 31 % 500}\n" for n in range(3000)), True),
        ("".join(f"{n} + {n} = {2 * n}\n" for n in range(3000)), False),
    ],
)
def test_documents_of_whole_numbers_are_told(
    tmp_path: Path, text: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(text)
    prepare_data(make_strategy(tmp_path, file, "training.steps=1"))
    warned = [record.getMessage() for record in caplog.records if "SW749" in record.getMessage()]
    assert [str(file) in message for message in warned] == [True] * is_warned
