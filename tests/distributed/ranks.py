"""Forked ranks: a distributed case in a second or two, because every rank starts from one warm parent.

The parent imports everything once and then only forks. It never runs the code under test, so it holds
no threads and no process group that a child could inherit half alive.
"""

import contextlib
import os
import pickle
import selectors
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# DeepSpeed 0.19.8 imports these only inside `initialize`; imported once here they cost every rank nothing.
LAZY_MODULES = (
    "deepspeed",
    "deepspeed.moe.layer",
    "deepspeed.runtime.engine",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.fp16.unfused_optimizer",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.nn.functional",
    "torch.utils.tensorboard",
    "transformers.modeling_utils",
    "transformers.generation",
)


class RankError(AssertionError):
    """A rank raised, died or hung; the message carries the first failing rank's traceback."""


def warm() -> None:
    """Imports what ranks need, once a process."""
    import importlib

    for name in LAZY_MODULES:
        importlib.import_module(name)
    import deepspeed
    import torch

    torch.set_num_threads(1)
    # DeepSpeed asks once a process which of its C ops could be built here, and imports setuptools for it.
    assert deepspeed.ops.__compatible_ops__ is not None


def run_ranks(world_size: int, fn: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """Runs `fn(*args)` on `world_size` forked ranks with a gloo world, and returns their results by rank.

    Raises:
        RankError: if a rank raises, dies, or is not done within `timeout` seconds. No process is left.
    """
    warm()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pids: dict[int, int] = {}
        pipes: dict[int, int] = {}
        # Buffered output that a child inherits would be printed once a rank.
        sys.stdout.flush()
        sys.stderr.flush()
        for rank in range(world_size):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                for inherited in pipes.values():
                    os.close(inherited)
                _rank_main(rank, world_size, folder, writer, fn, args, timeout)
            os.close(writer)
            pids[rank], pipes[rank] = pid, reader
        try:
            return _collect(pipes, time.monotonic() + timeout)
        finally:
            for pid in pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for reader in pipes.values():
                os.close(reader)


def _collect(pipes: dict[int, int], deadline: float) -> list[Any]:
    """Reads one pickled (ok, value) from every rank; raises at the first failure, with a short grace."""
    chunks: dict[int, bytearray] = {rank: bytearray() for rank in pipes}
    results: dict[int, Any] = {}
    errors: dict[int, str] = {}
    with selectors.DefaultSelector() as selector:
        for rank, reader in pipes.items():
            selector.register(reader, selectors.EVENT_READ, rank)
        while len(results) + len(errors) < len(pipes):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            for key, _ in selector.select(min(remaining, 0.5)):
                data = os.read(key.fd, 1 << 20)
                if data:
                    chunks[key.data] += data
                    continue
                selector.unregister(key.fd)
                ok, value = (False, "the rank died without a word")
                if chunks[key.data]:
                    ok, value = pickle.loads(bytes(chunks[key.data]))
                if ok:
                    results[key.data] = value
                else:
                    errors[key.data] = value
                    # Peers of a failed rank hang or fail in their next collective: give them a moment.
                    deadline = min(deadline, time.monotonic() + 1.0)
    if errors:
        rank = min(errors, key=lambda r: ("Connection" in errors[r], r))
        raise RankError(f"rank {rank} of {len(pipes)} failed ({len(errors)} in all):\n{errors[rank]}")
    if len(results) < len(pipes):
        missing = sorted(set(pipes) - set(results))
        raise RankError(f"ranks {missing} did not finish in time: a hang")
    return [results[rank] for rank in range(len(pipes))]


def _rank_main(
    rank: int,
    world_size: int,
    folder: str,
    writer: int,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    timeout: float,
) -> None:
    """The life of one forked rank; never returns."""
    import torch.distributed as dist

    status = 1
    try:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size)
        )
        store = dist.FileStore(str(Path(folder) / "store"), world_size)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
        )
        payload = pickle.dumps((True, fn(*args)))
        status = 0
    except BaseException:
        payload = pickle.dumps((False, traceback.format_exc()))
    with contextlib.suppress(BrokenPipeError):
        view = memoryview(payload)
        while view:
            view = view[os.write(writer, view) :]
    os.close(writer)
    # No interpreter shutdown: gloo's threads and the parent's atexit handlers belong to nobody here.
    os._exit(status)
