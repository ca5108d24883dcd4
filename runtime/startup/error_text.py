"""Text of one rank's error, and whether it says more than that another rank is gone."""

import os
import re
import traceback
from pathlib import Path
from typing import Any

from planner import Problem
from runtime.process.missing_module import is_load_failure, missing_module

# What torch says when the other end of a collective has gone.
_PEER_GONE = (
    "onnection closed",
    "onnection reset",
    "roken pipe",
    "onnection refused",
    "gloo/transport",
    "ncclRemoteError",
)
# What gloo says, its own path in the text, of a network interface that is not there (GLOO_SOCKET_IFNAME).
_OWN_FAULT = "Unable to find address"


def missing_problem(error: BaseException) -> Problem:
    """Of a package that this host lacks, or cannot load."""
    fields: dict[str, Any] = {**missing_module(error)}
    return Problem(**fields)


def describe(error: BaseException) -> str:
    """Kind, text and place of an error; its traceback with SWITCHYARD_DEBUG=1."""
    if wants_traceback():
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    operator = _UNDETERMINED.match(str(error))
    if operator is not None:
        return _UNDETERMINED_TEXT.format(operator=operator[1], place=place)
    text = without_frames(str(error))
    return f"{type(error).__name__}: {text}{place}\n  SWITCHYARD_DEBUG=1 shows the full traceback"


def without_frames(text: str) -> str:
    """The text of an error without the C++ stack that torch 2.13 appends (c10/util/Exception.cpp)."""
    return _CPP_STACK.split(text, maxsplit=1)[0].rstrip()


_CPP_STACK = re.compile(r"^(?:Exception raised from |C\+\+ CapturedTraceback:|frame #\d+: )", re.MULTILINE)


# torch 2.13's words (aten/src/ATen/Context.cpp, alertNotDeterministic).
_UNDETERMINED = re.compile(r"(\S+) does not have a deterministic implementation")
_UNDETERMINED_TEXT = (
    "SW954 runtime.deterministic is true, and the operator {operator} has no deterministic kernel on this "
    "GPU{place}: set runtime.deterministic to false\n  SWITCHYARD_DEBUG=1 shows the full traceback"
)


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return bool(os.environ.get("SWITCHYARD_DEBUG"))


def is_peer_loss(error: BaseException) -> bool:
    """Whether the error says no more than that another rank is gone."""
    if is_load_failure(error):
        return False
    import torch.distributed as dist  # loaded by now: its import is not what failed

    if isinstance(error, (dist.DistNetworkError, ConnectionError)):
        return True
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in _PEER_GONE)
        and _OWN_FAULT not in text
    )
