"""What preparing gives, what decides its hash, and what is refused."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from planner import StrategyError
from runtime.data import open_data, prepare_data
from tests.support.data_strategies import make_strategy, words, write_corpus


def problems(strategy) -> list[str]:
    with pytest.raises(StrategyError) as caught:
        prepare_data(strategy)
    return [str(problem) for problem in caught.value.problems]


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


def test_entry_is_the_same_wherever_the_same_text_lies(tmp_path: Path, corpus: Path) -> None:
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


def test_content_hash_ignores_what_the_training_section_says(tmp_path: Path, corpus: Path) -> None:
    """`training` is in the recipe's fingerprint by itself."""
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


def test_too_little_data_names_what_is_there_and_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(bytes([32 + i % 90]) * (1 + i % 2) for i in range(70)))
    (problem,) = problems(make_strategy(tmp_path, tmp_path / "a.txt"))
    # 105 bytes, no pair of them twice, and the end of text: 106 tokens; less 3 × 2, that is 6 times 16.
    assert "gives 6 sequences of 16 tokens (106 tokens)" in problem
    assert "at least 7: 3 for validation (data.validation_sequences) and 4 for one global batch" in problem


def test_just_enough_data_are_accepted(tmp_path: Path) -> None:
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
            assert "gives 6 sequences" in problems(strategy)[0]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": 1}\n{"text": 2}\n')
    paths = [tmp_path / "bad.jsonl", f"{tmp_path}/*.none", tmp_path / "gone.txt"]
    found = problems(make_strategy(tmp_path, paths, "model.vocab_size=256"))
    assert len(found) == 5
    assert [f"{tmp_path}/bad.jsonl:{line}: " in "".join(found) for line in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("content", [b"", b"\0"])
def test_data_without_text_are_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(content)
    (problem,) = problems(make_strategy(tmp_path, tmp_path / "data"))
    assert "there is no text in it" in problem


def test_unusable_tokenizer_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (problem,) = problems(make_strategy(tmp_path, corpus, "data.tokenizer=nowhere"))
    assert problem.startswith("data.tokenizer: nowhere is no file or folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (corpus / "2.txt").chmod(0)
    (problem,) = problems(make_strategy(tmp_path, corpus))
    assert "2.txt: data.path: cannot be read: Permission denied" in problem


def test_dangling_link_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (corpus / "7.txt").symlink_to(tmp_path / "gone")
    (problem,) = problems(make_strategy(tmp_path, corpus))
    assert "7.txt: data.path: cannot be read: No such file" in problem


def test_repetition_is_warned_of_with_its_count(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = make_strategy(tmp_path, corpus, "training.steps=1000")
    prepare_data(strategy)
    data = open_data(strategy)
    assert data.epochs(1000) == 4000 / data.num_train_sequences > 1
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{4000 / data.num_train_sequences:.2f} times" in warning.getMessage()


def test_run_within_one_epoch_warns_of_nothing(
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
        assert len(warned) == 2
        assert warned[0].startswith("data: 1 files are not UTF-8 text and were left out: ")
        assert "are never used" in warned[1]
