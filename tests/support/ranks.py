"""Forked ranks: a distributed case in a second or less, because every rank starts from one warm parent.

The parent imports everything once and then only forks. It never runs the code under test, so it holds
no threads and no process group that a child could inherit half alive. `run_ranks` takes new ranks for one
call, which may break whatever it likes in them; a `World` stays and takes one call after the other.
"""

import contextlib
import gc
import os
import pickle
import selectors
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# torch 2.13 writes down a stack trace for every collective, in case one hangs; here `_collect` says so.
os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "0")

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

Call = tuple[Callable[..., Any], tuple[Any, ...]]

_LENGTH = struct.Struct("<Q")  # goes before every pickled message in a pipe

# The parent's ends of all pipes: a child that kept one would hide from the ranks that the parent is gone.
_PARENTS_ENDS: set[int] = set()


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
    """Runs `fn(*args)` on `world_size` new ranks with a gloo world, and returns their results by rank.

    Raises:
        RankError: if a rank raises, dies, or is not done within `timeout` seconds. No process is left.
    """
    with _Ranks(world_size, timeout, [(fn, args)]) as ranks:
        return ranks.results(timeout)


class World:
    """Ranks that stay, with their gloo world and the groups that were made in it.

    What a call leaves in DeepSpeed's globals is taken away again, so that no call can tell what ran before;
    one that breaks something else must take `run_ranks`. After a failure the ranks are gone.
    """

    def __init__(self, world_size: int, timeout: float = 60.0) -> None:
        """`timeout`: seconds that a collective may take."""
        self.world_size = world_size
        self._ranks: _Ranks | None = _Ranks(world_size, timeout, None)

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
        """As `run_ranks`; `fn` and `args` are pickled.

        Raises:
            RankError: as `run_ranks`, and if an earlier call failed.
        """
        if self._ranks is None:
            raise RankError("the ranks ended with an earlier failure")
        try:
            self._ranks.send((fn, args))
            return self._ranks.results(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._ranks is not None

    def close(self) -> None:
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_KEPT: dict[tuple[int, int], World] = {}


def kept(world_size: int) -> World:
    """The world of this size that all tests share: made at the first call, and again after a failure."""
    key = os.getpid(), world_size  # a fork of this process shares none
    if key not in _KEPT or not _KEPT[key].is_alive:
        _KEPT[key] = World(world_size)
    return _KEPT[key]


class _Ranks:
    """The processes of a world and the pipes to and from them."""

    def __init__(self, world_size: int, timeout: float, calls: Iterable[Call] | None) -> None:
        """`calls`: what the ranks run before they end; None: what `send` sends them, until `close`."""
        warm()
        # Frozen, what the parent holds is not visited by a child's garbage collection, and so not copied.
        gc.collect()
        gc.freeze()
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._pids: list[int] = []
        self._commands: list[int] = []
        self._answers: list[int] = []
        # Buffered output that a child inherits would be printed once a rank.
        sys.stdout.flush()
        sys.stderr.flush()
        store = Path(self._folder.name) / "store"
        for rank in range(world_size):
            their_commands, commands = os.pipe()
            answers, their_answers = os.pipe()
            _PARENTS_ENDS.update((commands, answers))
            pid = os.fork()
            if pid == 0:
                for end in _PARENTS_ENDS:
                    os.close(end)
                todo = _received(their_commands) if calls is None else calls
                _rank_main(rank, world_size, store, their_answers, todo, timeout)
            os.close(their_commands)
            os.close(their_answers)
            self._pids.append(pid)
            self._commands.append(commands)
            self._answers.append(answers)

    def send(self, call: Call) -> None:
        message = pickle.dumps(call)
        for end in self._commands:
            # A rank that died is found when its answer is read.
            with contextlib.suppress(BrokenPipeError):
                _write(end, message)

    def results(self, timeout: float) -> list[Any]:
        return _collect(self._answers, time.monotonic() + timeout)

    def close(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # a fork of this process: not its child
                os.waitpid(pid, 0)
        for end in (*self._commands, *self._answers):
            os.close(end)
            _PARENTS_ENDS.discard(end)
        self._folder.cleanup()

    def __enter__(self) -> "_Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _collect(answers: list[int], deadline: float) -> list[Any]:
    """Reads one (ok, value) from every rank; raises at the first failure, with a short grace."""
    chunks = {rank: bytearray() for rank in range(len(answers))}
    results: dict[int, Any] = {}
    errors: dict[int, str] = {}
    with selectors.DefaultSelector() as selector:
        for rank, end in enumerate(answers):
            selector.register(end, selectors.EVENT_READ, rank)
        while len(results) + len(errors) < len(answers):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            for key, _ in selector.select(min(remaining, 0.5)):
                rank, chunk = key.data, chunks[key.data]
                data = os.read(key.fd, 1 << 20)
                chunk += data
                size = _LENGTH.unpack_from(chunk)[0] if len(chunk) >= _LENGTH.size else None
                if data and (size is None or len(chunk) < _LENGTH.size + size):
                    continue
                selector.unregister(key.fd)
                ok, value = (
                    pickle.loads(chunk[_LENGTH.size :]) if data else (False, "the rank died without an error")
                )
                if ok:
                    results[rank] = value
                else:
                    errors[rank] = value
                    # Peers of a failed rank hang or fail in their next collective: give them a moment.
                    deadline = min(deadline, time.monotonic() + 1.0)
    if errors:
        rank = min(errors, key=lambda r: ("Connection" in errors[r], r))
        raise RankError(f"rank {rank} of {len(answers)} failed ({len(errors)} in all):\n{errors[rank]}")
    if len(results) < len(answers):
        missing = sorted(set(range(len(answers))) - set(results))
        raise RankError(f"ranks {missing} did not finish in time: a hang")
    return [results[rank] for rank in range(len(answers))]


def _rank_main(
    rank: int, world_size: int, store: Path, answers: int, calls: Iterable[Call], timeout: float
) -> None:
    """The life of one forked rank; never returns."""
    import torch.distributed as dist

    status = 0
    try:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size)
        )
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(store), world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        _share_groups()
        for fn, args in calls:
            _write(answers, pickle.dumps((True, fn(*args))))
            _forget()
    except BaseException:
        status = 1
        with contextlib.suppress(BrokenPipeError):
            _write(answers, pickle.dumps((False, traceback.format_exc())))
    # No interpreter shutdown: gloo's threads and the parent's atexit handlers belong to nobody here.
    os._exit(status)


def _received(commands: int) -> Iterator[Call]:
    """The calls that come through a pipe, until its other end is closed."""
    with open(commands, "rb") as pipe:
        while header := pipe.read(_LENGTH.size):
            yield pickle.loads(pipe.read(_LENGTH.unpack(header)[0]))


def _write(end: int, message: bytes) -> None:
    view = memoryview(_LENGTH.pack(len(message)) + message)
    while view:
        view = view[os.write(end, view) :]


def _share_groups() -> None:
    """Groups of the same ranks are made once in the life of a world: each holds threads and sockets."""
    import torch.distributed as dist

    make, made = dist.new_group, {}

    def new_group(ranks: list[int] | None = None, *args: Any, **kwargs: Any) -> Any:
        purpose = kwargs.get("group_desc")  # one of reductions is apart from others of the same ranks
        key = (tuple(ranks or range(dist.get_world_size())), args, tuple(kwargs), purpose)
        if key not in made:
            made[key] = make(ranks, *args, **kwargs)
        return made[key]

    dist.new_group = new_group


def _forget() -> None:
    """Takes away what an engine leaves in DeepSpeed's globals, and the engine itself."""
    from deepspeed.utils import groups

    groups._release_process_group_references()  # what DeepSpeed does when a world ends
    gc.collect()
