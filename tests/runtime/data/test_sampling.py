"""Sequence packing, the validation split and the read order."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data.sampling import Split, read_order, shuffle


def spans(split: Split) -> tuple[list[range], list[range]]:
    """The token positions of every training and every validation sequence."""
    length = split.seq_length + 1
    train = split.train_starts(np.arange(split.num_train))
    validation = split.validation_starts(np.arange(split.num_validation))
    return [range(s, s + length) for s in train.tolist()], [range(s, s + length) for s in validation.tolist()]


def test_split_of_twenty_six_tokens_by_hand() -> None:
    # Two runs, S = 4: train 0-4, 4-8 | validation 9-13 | train 14-18 | validation 19-23 | 24, 25 left over.
    split = Split(num_tokens=26, seq_length=4, num_validation=2)
    train, validation = spans(split)
    assert [(s[0], s[-1]) for s in train] == [(0, 4), (4, 8), (14, 18)]
    assert [(s[0], s[-1]) for s in validation] == [(9, 13), (19, 23)]
    assert split.num_sequences == 5


def test_split_without_validation_is_plain_packing() -> None:
    split = Split(num_tokens=9, seq_length=4, num_validation=0)
    assert [(s[0], s[-1]) for s in spans(split)[0]] == [(0, 4), (4, 8)]


@given(num_tokens=st.integers(0, 2000), seq_length=st.integers(1, 40), num_validation=st.integers(0, 20))
def test_split_shares_no_token_between_training_and_validation(
    num_tokens: int, seq_length: int, num_validation: int
) -> None:
    split = Split(num_tokens=num_tokens, seq_length=seq_length, num_validation=num_validation)
    if split.num_train == 0:
        return
    train, validation = spans(split)
    trained = {p for span in train for p in span}
    held_out = [p for span in validation for p in span]
    assert not trained.intersection(held_out)
    assert len(set(held_out)) == len(held_out)
    targets = [p for span in train for p in span[1:]]
    assert len(set(targets)) == len(targets)
    assert min(trained | set(held_out)) >= 0
    assert max(trained | set(held_out)) < num_tokens
    # What is left over at the end is less than one more sequence needs.
    assert num_tokens - len(trained | set(held_out)) < seq_length + max(1, num_validation)
    assert split.num_sequences == split.num_train + num_validation


def test_validation_is_spread_over_the_stream() -> None:
    starts = Split(num_tokens=1_000_000, seq_length=100, num_validation=10).validation_starts(np.arange(10))
    assert np.all(np.abs(np.diff(starts) - 100_000) < 200)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_shuffle_is_a_permutation(num: int) -> None:
    assert sorted(shuffle(np.arange(num), num, "key")) == list(range(num))


@given(num=st.integers(1, 1 << 40), data=st.data())
@settings(max_examples=50)
def test_shuffle_of_some_places_equals_that_of_each(num: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, num - 1), min_size=1, max_size=8))
    together = shuffle(np.array(places), num, "k")
    assert together.tolist() == [int(shuffle(np.array([p]), num, "k")[0]) for p in places]
    assert together.max() < num


def test_shuffle_equals_the_same_network_in_plain_integers() -> None:
    """A run that resumes next year must read what it would have read today."""
    num, key = 1000, "7 3"  # half of 10 bits is 5
    digest = hashlib.shake_256(f"switchyard read order {key}".encode()).digest(96)
    keys = struct.unpack("<12Q", digest)

    def mix(v: int) -> int:
        v = ((v ^ v >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        v = ((v ^ v >> 27) * 0x94D049BB133111EB) % 2**64
        return v ^ v >> 31

    def walk(v: int) -> int:
        while True:
            left, right = v >> 5, v & 31
            for k in keys:
                left, right = right, left ^ (mix(right ^ k) & 31)
            v = left << 5 | right
            if v < num:
                return v

    assert shuffle(np.arange(num), num, key).tolist() == [walk(v) for v in range(num)]


@pytest.mark.parametrize("num", [5, 27])
def test_shuffle_sends_every_place_everywhere_equally_often(num: int) -> None:
    num_keys = 1000
    counts = np.zeros((num, num))
    for key in range(num_keys):
        counts[np.arange(num), shuffle(np.arange(num), num, str(key))] += 1
    expected = num_keys / num
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (num - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_do_not_stay_together() -> None:
    order = shuffle(np.arange(100_000), 100_000, "1 0")
    assert np.mean(np.diff(order) == 1) < 1e-4
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02


def test_each_epoch_reads_every_sequence_once_in_another_order() -> None:
    epochs = read_order(np.arange(30), 10, seed=1).reshape(3, 10)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_another_seed_reads_in_another_order() -> None:
    places = np.arange(50)
    assert not np.array_equal(read_order(places, 50, seed=1), read_order(places, 50, seed=2))
