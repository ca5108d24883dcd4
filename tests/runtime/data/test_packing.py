"""Packing of documents into sequences: complete, tight, and as the definitions say."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import StrategyError
from runtime.data import TokenData, open_data, prepare_data
from runtime.data.packing import best_fit_decreasing, pack_documents
from runtime.data.sampling import DocumentSplit
from tests.support.data_strategies import make_strategy, words

LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=60)


def one_at_a_time(lengths: list[int], capacity: int) -> list[int]:
    """The spaces of the bins, sorted: each item, the longest first, to the tightest bin that has room."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, space in enumerate(spaces) if space >= length]
        if fitting:
            spaces[min(fitting, key=lambda i: spaces[i])] -= length
        else:
            spaces.append(capacity - length)
    return sorted(spaces)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=80))
def test_bins_are_those_of_one_item_at_a_time(lengths: list[int]) -> None:
    bins, num_bins = best_fit_decreasing(np.array(lengths), 12)
    filled = np.zeros(num_bins, int)
    np.add.at(filled, bins, lengths)
    assert sorted(12 - filled) == one_at_a_time(lengths, 12)


@given(lengths=LENGTHS, seq_length=st.integers(1, 12))
def test_every_token_but_a_documents_first_is_predicted_once(lengths: list[int], seq_length: int) -> None:
    tokens = np.arange(sum(lengths))  # each token says where it is
    packed = pack_documents(np.array(lengths), seq_length)
    rows = packed.read(tokens, None, np.arange(packed.num_sequences), seq_length)
    assert rows.has_target_BS is not None
    starts = np.cumsum(lengths) - lengths
    predicted = rows.tokens_BS1[:, 1:][rows.has_target_BS]
    assert sorted(predicted) == sorted(set(tokens.tolist()) - set(starts.tolist()))
    # From the token before it.
    assert np.array_equal(rows.tokens_BS1[:, :-1][rows.has_target_BS], predicted - 1)


@given(lengths=LENGTHS, seq_length=st.integers(1, 12), seed=st.integers(0, 5))
def test_rows_and_counts_follow_from_the_pieces(lengths: list[int], seq_length: int, seed: int) -> None:
    tokens = np.arange(sum(lengths)) + 1  # 0 is padding
    is_target = (np.random.default_rng(seed).random(len(tokens)) < 0.3).astype(np.uint8)
    packed = pack_documents(np.array(lengths), seq_length, is_target)
    numbers = np.arange(packed.num_sequences)
    rows = packed.read(tokens, is_target, numbers, seq_length)
    assert rows.positions_BS is not None
    assert rows.has_target_BS is not None
    for row in numbers:
        row_tokens: list[int] = []
        row_positions: list[int] = []
        row_targets: list[bool] = []
        for piece in range(packed.first_pieces[row], packed.first_pieces[row + 1]):
            start, length = packed.starts[piece], packed.lengths[piece]
            asked = is_target[start + 1 : start + length].tolist()
            assert any(asked)
            row_tokens += tokens[start : start + length].tolist()
            row_positions += range(length)
            row_targets += [*map(bool, asked), False]
        free = seq_length + 1 - len(row_tokens)
        assert free >= 0
        assert rows.tokens_BS1[row].tolist() == row_tokens + [0] * free
        assert rows.positions_BS[row].tolist() == (row_positions + list(range(free)))[:-1]
        assert rows.has_target_BS[row].tolist() == (row_targets + [False] * free)[:-1]
        mask = [token > 0 for token in rows.tokens_BS1[row, :-1]]
        assert mask == ([True] * len(mask) if rows.mask_BS is None else rows.mask_BS[row].tolist())
        pairs = sum(
            p + 1 for p, is_real in zip(rows.positions_BS[row].tolist(), mask, strict=True) if is_real
        )
        assert packed.num_pairs[row] == pairs
    if len(numbers):
        assert packed.totals(numbers) == rows.totals()
        assert packed.totals(numbers[:1]) == rows.part(slice(1)).totals()


def test_document_longer_than_a_sequence_is_cut() -> None:
    """11 tokens at 4 targets a sequence: tokens 0 to 4, 4 to 8, 8 to 10."""
    packed = pack_documents(np.array([11]), 4)
    pieces = sorted(zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True))
    assert pieces == [(0, 5), (4, 5), (8, 3)]
    assert pack_documents(np.array([9]), 4).lengths.tolist() == [5, 5]
    assert pack_documents(np.array([1, 5]), 4).lengths.tolist() == [5]  # one token predicts nothing


@given(num_sequences=st.integers(1, 200), num_validation=st.integers(1, 20))
def test_split_holds_out_sequences_evenly(num_sequences: int, num_validation: int) -> None:
    split = DocumentSplit(num_sequences=num_sequences, num_validation=num_validation)
    if split.num_train < 1:
        return
    held_out = split.validation_sequences(np.arange(num_validation))
    trained = split.train_sequences(np.arange(split.num_train))
    assert sorted([*held_out, *trained]) == list(range(num_sequences))
    assert np.array_equal(trained, np.sort(trained))
    spaces = np.diff(held_out)
    assert len(spaces) == 0 or spaces.max() - spaces.min() <= 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": words(10 + number % 7, seed=number)}) for number in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def opened(root: Path, *overrides: str, packing: str = "documents") -> TokenData:
    strategy = make_strategy(root, root / "corpus.jsonl", f"data.packing={packing}", *overrides)
    return open_data(strategy, entry=prepare_data(strategy))


def test_batch_is_the_same_for_any_number_of_ranks_and_in_another_process(root: Path) -> None:
    data, again = opened(root), opened(root)
    for index in (5, 0, 31):
        rows = data.train_rows(index)
        assert rows.totals() == data.train_totals(index)
        for some in (slice(0, 2), slice(2, 4)):
            found, expected = again.train_rows(index, some), rows.part(some)
            assert np.array_equal(found.tokens_BS1, expected.tokens_BS1)
            assert np.array_equal(found.positions_BS, expected.positions_BS)
            assert np.array_equal(found.has_target_BS, expected.has_target_BS)


def test_a_document_ends_with_the_end_of_text_and_the_next_begins_at_position_0(root: Path) -> None:
    data = opened(root, "training.seq_length=200")
    rows = data.train_rows(0)
    assert rows.positions_BS is not None
    for row in range(4):
        ends = np.flatnonzero(rows.tokens_BS1[row] == data.end_of_text)
        begins = np.flatnonzero(rows.positions_BS[row] == 0)
        assert len(ends) > 1
        assert begins.tolist() == [0, *(ends + 1)][: len(begins)]


def test_every_sequence_is_read_once_an_epoch_and_validation_never(root: Path) -> None:
    data = opened(root)
    assert data.packed is not None
    num = data.num_train_sequences
    assert num + 3 == data.packed.num_sequences
    trained = [tuple(row) for i in range(num) for row in data.train_rows(i).tokens_BS1][:num]
    assert len(set(trained)) == num
    assert not set(trained) & {tuple(row) for row in data.validation_rows().tokens_BS1}
    assert data.validation_rows().totals() == data.validation_totals()


def test_packing_is_part_of_the_recipe_and_shares_the_tokens(root: Path) -> None:
    documents, stream = opened(root), opened(root, packing="stream")
    assert documents.folder == stream.folder
    assert documents.content_hash != stream.content_hash
    assert opened(root, "training.seq_length=8").folder == stream.folder


@pytest.mark.parametrize("suffix", ["bin", "json"])
def test_damaged_packing_is_made_again(root: Path, suffix: str) -> None:
    data = opened(root)
    expected = data.train_rows(0).tokens_BS1
    file = data.folder / f"sequences-16.{suffix}"
    intact = file.read_bytes()
    content = bytearray(intact)
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert np.array_equal(opened(root).train_rows(0).tokens_BS1, expected)
    assert file.read_bytes() == intact


def test_rank_without_the_packing_is_a_problem(root: Path) -> None:
    data = opened(root)
    (data.folder / "sequences-16.json").unlink()
    strategy = make_strategy(root, root / "corpus.jsonl", "data.packing=documents")
    with pytest.raises(StrategyError) as caught:
        open_data(strategy, entry=data.folder)
    assert [problem.code for problem in caught.value.problems] == ["SW715"]


def test_too_few_packed_sequences_are_a_problem(root: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        opened(root, "training.global_batch=2000")
    (problem,) = caught.value.problems
    assert problem.code == "SW713"
    assert "at least 2,003" in str(problem.expected)


def test_start_says_how_many_positions_have_a_target(tmp_path: Path) -> None:
    """Documents of 10 bytes: 11 tokens each, of which 10 have a target, in sequences of 12 positions."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "abcdefghij"}) * 8, encoding="utf-8")
    overrides = ("model.vocab_size=257", "training.seq_length=12", "data.validation_sequences=1")
    data = opened(tmp_path, *overrides, "training.global_batch=1")
    assert data.describe() == (
        "data: 8 documents or parts of one in 8 sequences; "
        "83.3% of the positions have a target (80), 8.3% are padding"
    )
    strategy = make_strategy(tmp_path, tmp_path / "corpus.jsonl", *overrides, "training.global_batch=1")
    assert open_data(strategy, entry=prepare_data(strategy)).describe() is None
