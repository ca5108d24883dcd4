"""The one reason for which a run failed, when its ranks fail one after the other.

A rank that fails breaks its peers' collectives. The first that has a reason of its own leaves it in the
store, and the others repeat it. A rank that only sees that a peer is gone waits a moment for such a reason.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from planner import Plan
from planner.plan.operator_env import format_ranks
from planner.run_holder import FAILED_NAME

if TYPE_CHECKING:
    from torch.distributed import Store

ECHO_WAIT_S = 3.0
STORE_WAIT_S = 10.0
# A failed collective's timeouts end within moments of each other; a rank that is stopped reports none.
STALL_WAIT_S = 5.0


def first_reason(store: Store, own: str, *, wait_s: float) -> str | None:
    """The first reason that any rank gave; `own` if there is none after `wait_s`. None: no store answers."""

    def ask() -> str:
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not store.check(["failure"]):
            time.sleep(0.05)
        return store.compare_set("failure", "", own).decode()

    return _answer(ask, STORE_WAIT_S + wait_s)


def left_by_rank_0(folder: Path | None, attempt: int | None, *, wait_s: float) -> bool:
    """Whether rank 0, whose store is gone, has ended with a reason of its own: it is in failed.json."""
    if folder is None or attempt is None:
        return False
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if json.loads((folder / FAILED_NAME).read_text())["attempt"] == attempt:
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def describe_stall(store: Store, plan: Plan, rank: int) -> str:
    """On a rank whose collective timed out: which ranks are in none, as they do not report the same."""

    def ask() -> str:
        store.set(f"stalled/{rank}", "")
        silent = set(range(plan.world_size))
        deadline = time.monotonic() + STALL_WAIT_S
        while silent and time.monotonic() < deadline:
            silent -= {peer for peer in silent if store.check([f"stalled/{peer}"])}
            time.sleep(0.1)
        if not silent:
            return "all ranks wait for each other"
        ranks = sorted(silent)
        hosts = ", ".join(dict.fromkeys(plan.host_of(peer).name for peer in ranks))
        name = "ranks" if len(ranks) > 1 else "rank"
        return f"{name} {format_ranks(tuple(ranks))} on {hosts} did not take part"

    return _answer(ask, STORE_WAIT_S + STALL_WAIT_S) or f"rank 0 on {plan.host_of(0).name} does not answer"


def _answer(ask: Callable[[], str], wait_s: float) -> str | None:
    """What `ask` says; None where the store is gone, or does not answer: on a host that is cut off, never."""
    answers: list[str] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # the store went with rank 0
            answers.append(ask())

    asking = threading.Thread(target=run, name="failure-reason", daemon=True)
    asking.start()
    asking.join(wait_s)
    return answers[0] if answers else None
