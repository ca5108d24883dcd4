"""Collective actions: all ranks succeed, or all ranks raise the same error with the failed ranks' reasons.

A rank that fails between two collectives would leave the others waiting for it. So work that may fail runs
through `on_rank_0` or `on_all`: an error is sent as the rank's answer, and every rank raises it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")
logger = logging.getLogger(__name__)


class RanksFailed(RuntimeError):
    """Work that all ranks depend on failed on some of them; the message names the ranks and reasons."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks that act together, as seen by one of them.

    The two collectives are injected, so that it works with threads, forked processes or torch.distributed:
    `gather(content)` returns every rank's bytes, in rank order, on rank 0 and None elsewhere;
    `broadcast(content)` returns rank 0's bytes everywhere. What is sent is JSON, and is checked against the
    type of the result that is expected: a peer is never unpickled.
    """

    rank: int
    world_size: int
    gather: Callable[[bytes], list[bytes] | None]
    broadcast: Callable[[bytes], bytes]

    def on_rank_0(self, work: Callable[[], T], of: Any) -> T:
        """Do `work` on rank 0 alone; every rank gets its result.

        Args:
            of: the type of the result: plain data, dataclasses of it, paths.

        Raises:
            RanksFailed: on every rank, if it failed.
        """
        mine, reason, error = _attempt(work) if self.rank == 0 else (None, None, None)
        answer = self.broadcast(_encode(mine, reason, of) if self.rank == 0 else b"")
        result, reason = _decode(answer, of)
        if reason is not None:
            raise RanksFailed(reason) from error
        return result  # type: ignore[no-any-return]  # `of` is its type

    def on_all(self, work: Callable[[], T], of: Any) -> list[T] | None:
        """Do `work` on every rank; rank 0 gets the results in rank order, the others None.

        Args:
            of: the type of each result, as in `on_rank_0`.

        Raises:
            RanksFailed: on every rank, if it failed on any.
        """
        result, reason, error = _attempt(work)
        gathered = self.gather(_encode(result, reason, of))
        answers, reasons = None, []
        if gathered is not None:
            assert len(gathered) == self.world_size, f"{len(gathered)} answers from {self.world_size} ranks"
            answers = [_decode(content, of) for content in gathered]
            reasons = [f"rank {rank}: {why}" for rank, (_, why) in enumerate(answers) if why is not None]
        reasons = self.share(reasons, list[str])
        if reasons:
            more = [f"and {len(reasons) - 3} more ranks"] if len(reasons) > 3 else []
            raise RanksFailed("; ".join(reasons[:3] + more)) from error
        return None if answers is None else [result for result, _ in answers]

    def share(self, value: T, of: Any) -> T:
        """Rank 0's value, on every rank; what the others pass is not looked at."""
        content = self.broadcast(_encode(value, None, of) if self.rank == 0 else b"")
        return _decode(content, of)[0]  # type: ignore[no-any-return]  # `of` is its type


ALONE = Ranks(rank=0, world_size=1, gather=lambda content: [content], broadcast=lambda content: content)


@cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)


def _encode(result: object, reason: str | None, of: Any) -> bytes:
    """JSON of a result, or of the reason why there is none. Not pydantic's own, which turns NaN into null."""
    plain = None if reason is not None else _adapter(of).dump_python(result, mode="json")
    return json.dumps({"result": plain, "reason": reason}).encode()


def _decode(content: bytes, of: Any) -> tuple[Any, str | None]:
    answer = json.loads(content)
    if answer["reason"] is not None:
        return None, str(answer["reason"])
    return _adapter(of).validate_python(answer["result"]), None


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None, Exception | None]:
    try:
        return work(), None, None
    except Exception as error:  # any error, or the other ranks would wait for this one
        logger.debug("work for all ranks failed here", exc_info=True)
        return None, _reason(error), error


def _reason(error: Exception) -> str:
    # "KeyError: 'x'" is not understood without its type; an OSError and our own errors are.
    needs_type = type(error).__module__ == "builtins" and not isinstance(error, OSError)
    return f"{type(error).__name__}: {error}" if needs_type else str(error)
