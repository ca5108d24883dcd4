"""data.mix: what each batch holds, against each corpus prepared alone."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from planner import Strategy, StrategyError
from runtime.data import TokenData, open_data, prepare_data
from tests.runtime.data.test_tokenizer import word_tokenizer
from tests.support.data_strategies import make_strategy, words

WEIGHTS = (5, 3, 2)
LETTERS = "abc"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three corpora whose words end in their letter, and a tokenizer of all those words."""
    folder = tmp_path_factory.mktemp("mix")
    entries = {}
    for number, letter in enumerate(LETTERS):
        (folder / letter).mkdir()
        for document in range(4 + number):
            text = [word + letter for word in words(120, seed=10 * number + document).split()]
            entries |= dict.fromkeys(text)
            (folder / letter / f"{document}.txt").write_text(" ".join(text))
    word_tokenizer("<unk>", "</s>", *entries).save(str(folder / "t.json"))
    return folder


def mixed(root: Path, *overrides: str, weights: tuple[float, ...] = WEIGHTS) -> Strategy:
    parts = [{"path": f"{root}/{letter}", "weight": w} for letter, w in zip(LETTERS, weights, strict=False)]
    return made(root, None, f"data.mix={json.dumps(parts)}", *overrides)


def made(root: Path, path: object, *overrides: str) -> Strategy:
    defaults = {"data.tokenizer": f"{root}/t.json", "model.vocab_size": 9000, "training.steps": 4}
    given = {text.partition("=")[0] for text in overrides}
    chosen = (f"{key}={value}" for key, value in defaults.items() if key not in given)
    return make_strategy(root, path, *chosen, *overrides)


def opened(strategy: Strategy) -> TokenData:
    return open_data(strategy, entry=prepare_data(strategy))


def letters(data: TokenData, tokens_BS1: np.ndarray) -> list[str]:
    """The corpus of each row."""
    entries = sorted(data.tokenizer().get_vocab().items(), key=lambda entry: entry[1])
    owners = np.array([word[-1] for word, _ in entries])
    found = [np.unique(owners[row[row > 1]]) for row in tokens_BS1]
    assert all(len(owner) == 1 for owner in found)
    return [str(owner[0]) for owner in found]


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_each_part_is_read_as_it_is_alone(root: Path, packing: str) -> None:
    """Row k of a part in the mixture is row k of a run on that part, across several of its epochs."""
    packed = f"data.packing={packing}"
    data = opened(mixed(root, packed, "data.validation_sequences=10"))
    rows = np.concatenate([data.train_rows(i).tokens_BS1 for i in range(80)])
    held_out = data.validation_rows().tokens_BS1
    owners, owners_held_out = letters(data, rows), letters(data, held_out)
    for letter, weight in zip(LETTERS, WEIGHTS, strict=True):
        here = [row for row, owner in zip(rows, owners, strict=True) if owner == letter]
        alone = opened(made(root, root / letter, packed, f"data.validation_sequences={weight}"))
        num_batches = -(-len(here) // 4)
        expected = np.concatenate([alone.train_rows(i).tokens_BS1 for i in range(num_batches)])
        assert np.array_equal(np.stack(here), expected[: len(here)])
        assert len(here) > alone.num_train_sequences, "no second epoch was read"
        validation = [row for row, owner in zip(held_out, owners_held_out, strict=True) if owner == letter]
        assert np.array_equal(np.stack(validation), alone.validation_rows().tokens_BS1)


def test_shares_are_those_of_the_weights_in_every_batch(root: Path) -> None:
    data = opened(mixed(root, "training.global_batch=10"))
    for index in (0, 1, 17, 1234):
        owners = letters(data, data.train_rows(index).tokens_BS1)
        assert [owners.count(letter) for letter in LETTERS] == [5, 3, 2]


def test_batch_is_the_same_for_any_ranks_and_after_a_resume(root: Path) -> None:
    data, again = opened(mixed(root)), opened(mixed(root))
    for index in (7, 2500):
        complete = data.train_rows(index)
        parts = [again.train_rows(index, slice(rank, rank + 1)).tokens_BS1 for rank in range(4)]
        assert np.array_equal(np.concatenate(parts), complete.tokens_BS1)
        assert complete.totals() == again.train_totals(index)


def test_weights_belong_to_the_recipe_but_not_to_the_prepared_tokens(root: Path) -> None:
    first, second = mixed(root), mixed(root, weights=(1, 1, 1))
    assert prepare_data(first) == prepare_data(second)
    a, b = opened(first), opened(second)
    assert a.content_hash != b.content_hash
    assert a.content_hash == opened(mixed(root, weights=(50, 30, 20))).content_hash
    assert a.tokenizer_hash == b.tokenizer_hash


def test_entry_of_a_mix_is_not_that_of_a_list(root: Path) -> None:
    """The same files in the same order, but with other boundaries."""
    listed = made(root, [root / letter for letter in LETTERS])
    assert prepare_data(listed) != prepare_data(mixed(root))


def test_one_part_is_the_corpus_alone(root: Path) -> None:
    mix, alone = opened(mixed(root, weights=(3,))), opened(made(root, root / "a"))
    assert np.array_equal(mix.train_rows(5).tokens_BS1, alone.train_rows(5).tokens_BS1)
    assert np.array_equal(mix.validation_rows().tokens_BS1, alone.validation_rows().tokens_BS1)


def test_trained_tokenizer_sees_every_part(root: Path) -> None:
    data = opened(mixed(root, "data.tokenizer=null", "model.vocab_size=600"))
    for letter in LETTERS:
        text = (root / letter / "0.txt").read_text()
        ids = data.tokenizer().encode(text).ids
        assert len(ids) < 0.7 * len(text), "no merges of this corpus"


def test_part_that_is_read_more_than_once_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    strategy = mixed(root, "training.steps=200", weights=(1, 98, 1))
    data = opened(strategy)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("data.mix[1].path" in text, text[:5]) for text in warned] == [(True, "SW717")]
    (times,) = [n for n in data.split.epochs(800) if n > 1]
    assert f"{times:.2f} times" in warned[0]
    assert data.epochs(200) == times


def test_problems_name_the_part(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{\n{"text": "b"}\n')
    (tmp_path / "short.txt").write_text("words")
    paths = [f"{tmp_path}/none.txt", f"{tmp_path}/bad.jsonl", str(root / "a")]
    mix = json.dumps([{"path": path, "weight": 1} for path in paths])
    with pytest.raises(StrategyError) as caught:
        prepare_data(make_strategy(tmp_path, None, f"data.mix={mix}"))
    found = [(problem.code, problem.path) for problem in caught.value.problems]
    assert found == [("SW702", "data.mix[0].path"), ("SW707", "data.mix[1].path")]

    mix = json.dumps([{"path": path, "weight": 1} for path in (str(root / "a"), f"{tmp_path}/short.txt")])
    with pytest.raises(StrategyError) as caught:
        prepare_data(make_strategy(tmp_path, None, f"data.mix={mix}"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("SW713", "data.mix[1].path")
    assert "at least 3: 1 for validation (data.validation_sequences) and 2 for one" in problem.expected


def test_file_of_two_parts_is_read_in_the_first(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    mix = json.dumps([{"path": str(root / "a"), "weight": 1}, {"path": f"{root}/[ab]/*.txt", "weight": 1}])
    data = opened(made(root, None, f"data.mix={mix}"))
    assert any(record.getMessage().startswith("SW718") for record in caplog.records)
    assert letters(data, data.train_rows(3).tokens_BS1) == ["a", "b", "a", "b"]
