"""Collective actions: all ranks succeed, or all ranks raise the same error with the failed ranks' reasons.

A rank that fails between two collectives would leave the others waiting for it. So work that may fail runs
through `on_rank_0` or `on_all`: an error is sent as the rank's answer, and every rank raises it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class RanksFailed(RuntimeError):
    """Work that all ranks depend on failed on some of them; the message names the ranks and reasons."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks that act together, as seen by one of them.

    The two collectives are injected, so that it works with threads, forked processes or torch.distributed:
    `gather(obj)` returns every rank's object, in rank order, on rank 0 and None elsewhere;
    `broadcast(obj)` returns rank 0's object everywhere. Objects are plain data.
    """

    rank: int
    world_size: int
    gather: Callable[[Any], list[Any] | None]
    broadcast: Callable[[Any], Any]

    def on_rank_0(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone; every rank gets its result.

        Raises:
            RanksFailed: on every rank, if it failed.
        """
        mine, why, error = _attempt(work) if self.rank == 0 else (None, None, None)
        answer: tuple[T, str | None] = self.broadcast((mine, why))
        result, reason = answer
        if reason is not None:
            raise RanksFailed(reason) from error
        return result

    def on_all(self, work: Callable[[], T]) -> list[T] | None:
        """Do `work` on every rank; rank 0 gets the results in rank order, the others None.

        Raises:
            RanksFailed: on every rank, if it failed on any.
        """
        result, reason, error = _attempt(work)
        answers = self.gather((result, reason))
        reasons = None
        if answers is not None:
            assert len(answers) == self.world_size, f"{len(answers)} answers from {self.world_size} ranks"
            reasons = [f"rank {rank}: {why}" for rank, (_, why) in enumerate(answers) if why is not None]
        reasons = self.broadcast(reasons)
        if reasons:
            more = [f"and {len(reasons) - 3} more ranks"] if len(reasons) > 3 else []
            raise RanksFailed("; ".join(reasons[:3] + more)) from error
        return None if answers is None else [result for result, _ in answers]


ALONE = Ranks(rank=0, world_size=1, gather=lambda obj: [obj], broadcast=lambda obj: obj)


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
