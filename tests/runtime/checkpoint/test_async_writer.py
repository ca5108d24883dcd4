"""Writing beside training: what is written is what was there when it began, and no failure is lost."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from runtime.checkpoint.async_writer import AsyncWriter
from runtime.checkpoint.safetensors_writer import OwnedPiece


def piece(tensor: torch.Tensor, name: str = "w") -> OwnedPiece:
    shape = tuple(tensor.shape)
    return OwnedPiece(
        name=name, kind="weight", global_shape=shape, offsets=(0,) * len(shape), shape=shape, tensor=tensor
    )


@dataclass
class SlowWrite:
    """Writes once it may, and keeps what it wrote."""

    may_write: threading.Event = field(default_factory=threading.Event)
    written: list[list[torch.Tensor]] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)

    def __call__(self, pieces: Sequence[OwnedPiece]) -> None:
        assert self.may_write.wait(30)
        self.written.append([each.tensor.clone() for each in pieces])
        self.addresses += [each.tensor.data_ptr() for each in pieces]


def test_training_changes_nothing_that_is_being_written() -> None:
    whole = torch.arange(12.0).view(3, 4)
    part, scalar = whole[:, 1:3], torch.tensor(7, dtype=torch.int64)
    writer, write = AsyncWriter(), SlowWrite()
    writer.begin([piece(part), piece(scalar, "n")], write)
    assert write.written == []
    whole.zero_()
    scalar.zero_()
    write.may_write.set()
    writer.finish()
    ((first, second),) = write.written
    assert first.tolist() == [[1, 2], [5, 6], [9, 10]]
    assert second.item() == 7


def test_one_write_at_a_time_in_the_same_memory() -> None:
    tensor, writer, write = torch.ones(5), AsyncWriter(), SlowWrite()
    writer.begin([piece(tensor)], write)
    tensor += 1
    threading.Timer(0.2, write.may_write.set).start()
    writer.begin([piece(tensor)], write)  # after the first: it takes the memory
    writer.finish()
    assert [pieces[0].tolist() for pieces in write.written] == [[1.0] * 5, [2.0] * 5]
    assert write.addresses[0] == write.addresses[1]
    writer.begin([piece(torch.ones(6))], write)  # another share: other memory
    writer.finish()
    assert write.written[-1][0].tolist() == [1.0] * 6


def fail(_: Sequence[OwnedPiece]) -> None:
    raise OSError("no space left")


@pytest.mark.parametrize("is_next_save", [False, True])
def test_a_failure_is_raised_once(is_next_save: bool) -> None:
    writer, write = AsyncWriter(), SlowWrite()
    write.may_write.set()
    writer.begin([piece(torch.ones(2))], fail)
    once_more = partial(writer.begin, [piece(torch.ones(2))], write) if is_next_save else writer.finish
    with pytest.raises(OSError, match="no space left"):
        once_more()
    assert write.written == []
    assert not writer.has_failed
    writer.finish()


def test_a_failure_can_be_seen_before_it_is_raised() -> None:
    writer = AsyncWriter()
    writer.begin([piece(torch.ones(2))], fail)
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join(30)
    assert writer.has_failed
    with pytest.raises(OSError, match="no space left"):
        writer.finish()
