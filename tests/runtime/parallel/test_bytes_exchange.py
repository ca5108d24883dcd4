"""Bytes of any length between real ranks; answers of ranks are checked, and none is unpickled."""

from pathlib import Path

import pytest
import torch.distributed as dist
from pydantic import ValidationError

from runtime.checkpoint.manifest import FileRecord
from runtime.parallel.bytes_exchange import broadcast_bytes, gather_bytes
from runtime.parallel.collective_actions import ALONE, Ranks
from tests.support.ranks import run_ranks

LENGTHS = (0, 5, 70_000)


def _exchange() -> tuple[list[bytes] | None, list[bytes]]:
    rank = dist.get_rank()
    gathered = gather_bytes(bytes([rank]) * LENGTHS[rank])
    return gathered, [broadcast_bytes(b"x" * length if rank == 0 else b"?") for length in LENGTHS]


def test_ranks_exchange_bytes() -> None:
    answers = run_ranks(3, _exchange)
    assert answers[0][0] == [b"", b"\x01" * 5, b"\x02" * 70_000]
    assert [gathered for gathered, _ in answers[1:]] == [None, None]
    assert all(shared == [b"", b"x" * 5, b"x" * 70_000] for _, shared in answers)


@pytest.mark.parametrize(
    ("value", "of"),
    [
        (Path("/runs/a b"), Path),
        ((FileRecord(num_bytes=7, sha256="ab" * 32), ()), tuple[FileRecord, tuple[str, ...]]),
        (float("nan"), float),
        (None, None),
    ],
)
def test_what_a_rank_gets_is_what_was_sent(value: object, of: object) -> None:
    got = ALONE.on_rank_0(lambda: value, of)
    assert got == value or got != got
    assert type(got) is type(value) or isinstance(got, Path)


@pytest.mark.parametrize("sent", [b'{"result": "x", "reason": null}', b"cos\nsystem\n(S'true'\ntR."])
def test_what_is_not_an_answer_is_refused(sent: bytes) -> None:
    peer = Ranks(rank=1, world_size=2, gather=lambda _: None, broadcast=lambda _: sent)
    with pytest.raises((ValidationError, ValueError)):
        peer.on_rank_0(lambda: 0, int)
