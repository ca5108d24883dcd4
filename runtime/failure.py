"""How a rank ends badly: its error is shown once, readably, and written where programs look for it.

When one rank fails, its peers fail too, in a broken collective. The store keeps the first real reason;
errors that only say that a peer is gone wait a moment for it, and stay silent when there is one.
"""

import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from planner import Problem, StrategyError
from runtime.startup import Identity

BROKE = 3
WRONG_INPUT = 2

# What torch says when the other end of a collective has gone (gloo, NCCL, the store).
PEER_SIGNS = ("Connection closed by peer", "Connection reset", "Broken pipe", "NCCL", "Socket", "recv", "gloo")


def is_peer_loss(error: BaseException) -> bool:
    """Whether the error says no more than that another rank is gone."""
    if not isinstance(error, (RuntimeError, ConnectionError)):
        return False
    return isinstance(error, (dist.DistError, ConnectionError)) or any(sign in str(error) for sign in PEER_SIGNS)


def describe(error: BaseException, identity: Identity) -> str:
    """The error in a few lines: what, and where in the program; with SWITCHYARD_DEBUG the whole traceback."""
    import os

    if os.environ.get("SWITCHYARD_DEBUG"):
        text = "".join(traceback.format_exception(error)).rstrip()
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        text = f"{type(error).__name__}: {error}{place}"
    return f"[{identity}] {text}"


def first_reason(store: dist.Store | None, own: str, is_echo: bool) -> tuple[str, bool]:
    """The reason all ranks agree on, and whether it is this rank's own to tell.

    Args:
        is_echo: the own error only says that a peer is gone; wait for the peer's reason.
    """
    if store is None:
        return own, True
    try:
        deadline = time.monotonic() + (2.0 if is_echo else 0.0)
        while is_echo and time.monotonic() < deadline and not store.check(["failure"]):
            time.sleep(0.05)
        told = store.compare_set("failure", "", own).decode()
    except RuntimeError:
        return own, not is_echo  # the store went with rank 0, which has spoken or was killed
    return told, told == own


def print_problems(problems: Sequence[Problem]) -> None:
    print("\n".join(str(problem) for problem in problems), file=sys.stderr, flush=True)


def problems_of(error: BaseException) -> list[dict[str, object]]:
    """The Problems of an error as failed.json holds them; any other error is one of text."""
    if isinstance(error, StrategyError):
        return [problem.as_json() for problem in error.problems]
    return [json.loads(json.dumps({"found": str(error)}))]
