"""Worlds of forked ranks that take one command after the other, so that competitors can be timed in turn.

Each competitor has processes of its own: one's memory and DeepSpeed's globals are not another's, and while
one is timed the others wait in a read. The parent imports and forks; it runs nothing.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_FORK = multiprocessing.get_context("fork")
_TIMEOUT_S = 600.0

Command = tuple[Callable[..., Any], tuple[Any, ...]]


class WorldFailed(RuntimeError):
    """A rank raised, died or took too long; the message is the last line of what it said."""


class World:
    """`size` ranks over gloo, or one over NCCL on a GPU, that share a state between commands."""

    def __init__(
        self, size: int, threads: int, device: str = "cpu", before: Callable[[int], None] | None = None
    ) -> None:
        """`threads`: of each rank. `before`: what rank r does before it meets the others."""
        self._folder = tempfile.TemporaryDirectory(prefix="world-")
        self._pipes: list[Connection] = []
        self._ranks = []
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(size):
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(
                target=_rank_main,
                args=(rank, size, threads, device, before, str(Path(self._folder.name) / "store"), theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._ranks.append(process)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float = _TIMEOUT_S) -> list[Any]:
        """`function(state, *arguments)` on every rank; the results by rank. `state` is a dict that stays.

        Raises:
            WorldFailed: with the first rank's error.
        """
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):  # a rank that died is found when its answer is read
                pipe.send((function, arguments))
        results: list[Any] = []
        errors: list[str] = []
        for rank, pipe in enumerate(self._pipes):
            # Peers of a rank that failed wait for it in a collective.
            if not pipe.poll(2.0 if errors else timeout_s):
                errors.append(f"rank {rank} did not answer within {timeout_s:.0f} s")
                continue
            try:
                is_good, value = pipe.recv()
            except EOFError:
                is_good, value = False, f"rank {rank} died without an error (out of memory?)"
            (results if is_good else errors).append(value)
        if errors:
            raise WorldFailed(errors[0])
        return results

    def close(self) -> None:
        """Kills the ranks: nothing of theirs is worth a shutdown."""
        for process in self._ranks:
            process.kill()
        for process, pipe in zip(self._ranks, self._pipes, strict=True):
            process.join()
            pipe.close()
        self._folder.cleanup()


def _rank_main(
    rank: int,
    size: int,
    threads: int,
    device: str,
    before: Callable[[int], None] | None,
    store: str,
    commands: Connection,
) -> None:
    """The life of one rank; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the parent, which kills its ranks
    try:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_SIZE=str(size),
            MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS=str(threads),
        )  # fmt: skip
        torch.set_num_threads(threads)
        if before is not None:
            before(rank)
        dist.init_process_group(
            "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=_TIMEOUT_S),
        )
        state: dict[str, Any] = {"rank": rank, "size": size, "device": torch.device(device)}
        while True:
            function, arguments = commands.recv()
            commands.send((True, function(state, *arguments)))
    except EOFError:
        pass  # the parent is gone
    except BaseException as error:
        with contextlib.suppress(OSError):
            commands.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
    os._exit(0)
