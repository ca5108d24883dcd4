"""Global batch i: the same sequences for any number of ranks, after any resume, in any layout."""

from pathlib import Path

import numpy as np
import pytest

from runtime.data import TokenData, open_data, prepare_data
from tests.support.data_strategies import make_strategy, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    root = tmp_path_factory.mktemp("data")
    return opened(root, write_corpus(root / "corpus"))


def opened(root: Path, corpus: Path, *overrides: str) -> TokenData:
    strategy = make_strategy(root, corpus, *overrides)
    prepare_data(strategy)
    return open_data(strategy)


def test_batch_is_int64_rows_of_one_token_more_than_the_targets(data: TokenData) -> None:
    batch = data.train_rows(0).tokens_BS1
    assert batch.shape == (4, 17)
    assert batch.dtype == np.int64
    assert batch.flags.writeable  # torch.from_numpy warns of memory that is not


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_batch_is_the_same_for_any_number_of_ranks(data: TokenData, num_ranks: int) -> None:
    size = 4 // num_ranks
    parts = [
        data.train_rows(7, slice(rank * size, (rank + 1) * size)).tokens_BS1 for rank in range(num_ranks)
    ]
    assert np.array_equal(np.concatenate(parts), data.train_rows(7).tokens_BS1)


def test_rows_may_be_a_range(data: TokenData) -> None:
    assert np.array_equal(data.train_rows(3, range(1, 4, 2)).tokens_BS1, data.train_rows(3).tokens_BS1[1:4:2])
    assert data.train_rows(3, range(0)).tokens_BS1.shape == (0, 17)


def test_row_beyond_the_batch_is_an_assertion_error(data: TokenData) -> None:
    with pytest.raises(AssertionError):
        data.train_rows(0, range(3, 5))


def test_batch_is_the_same_in_another_process_that_starts_there(tmp_path: Path, data: TokenData) -> None:
    again = opened(tmp_path, write_corpus(tmp_path / "corpus"))
    for batch_index in (500, 3, 41):  # not in order: no state between batches
        assert np.array_equal(
            again.train_rows(batch_index).tokens_BS1, data.train_rows(batch_index).tokens_BS1
        )


def test_epoch_reads_every_sequence_once(data: TokenData) -> None:
    num = data.num_train_sequences
    read = np.concatenate([data.train_indices(i) for i in range(3 * num)]).reshape(-1, num)
    assert all(sorted(epoch) == list(range(num)) for epoch in read.tolist())
    assert not np.array_equal(read[0], read[1])


def test_epoch_trains_every_target_outside_validation_once(data: TokenData) -> None:
    """Every row is found in the token stream, and no token is lost."""
    num = data.num_train_sequences
    num_held_out = data.num_validation_sequences * 17
    assert len(data.tokens) - num * 16 - num_held_out < 16 + data.num_validation_sequences
    rows = [tuple(data.train_rows(i).tokens_BS1[row]) for i in range(-(-num // 4)) for row in range(4)][:num]
    stream = data.tokens.tolist()
    windows = {tuple(stream[start : start + 17]) for start in range(len(stream) - 16)}
    assert windows.issuperset(rows)
    assert len(set(rows)) == num


def test_validation_is_the_same_for_every_seed_batch_and_layout(tmp_path: Path, data: TokenData) -> None:
    other = opened(
        tmp_path,
        write_corpus(tmp_path / "corpus"),
        "training.seed=5",
        "training.global_batch=8",
        "parallel.ep=2",
    )
    assert np.array_equal(other.validation_rows().tokens_BS1, data.validation_rows().tokens_BS1)
    assert data.validation_rows().tokens_BS1.shape == (3, 17)
    assert np.array_equal(data.validation_rows(slice(1, 9)).tokens_BS1, data.validation_rows().tokens_BS1[1:])


def test_validation_is_never_trained(data: TokenData) -> None:
    num = data.num_train_sequences
    trained = {tuple(row) for i in range(num) for row in data.train_rows(i).tokens_BS1}
    assert len(trained) == num
    assert not trained.intersection(map(tuple, data.validation_rows().tokens_BS1))


def test_another_seed_reads_the_same_sequences_in_another_order(tmp_path: Path, data: TokenData) -> None:
    other = opened(tmp_path, write_corpus(tmp_path / "corpus"), "training.seed=2")
    assert other.content_hash == data.content_hash
    assert not np.array_equal(other.train_rows(0).tokens_BS1, data.train_rows(0).tokens_BS1)
