"""What a stranger writes into the store of a run: nothing of it reaches a rank, or failed.json."""

import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from runtime.startup.failure_reason import first_reason
from runtime.startup.meeting import CannotMeet
from runtime.startup.rank_store import Attempt, Server, join, serve
from tests.runtime.startup.test_exit_reporter import failed, reporter
from tests.support.launching import free_port

HERE, SECRET, EVIL = "127.0.0.1", "s" * 32, "a stranger's text"


def attempt(secret: str | None = SECRET) -> Attempt:
    return Attempt(job="ours", scope="ours/0", secret=secret)


def served(port: int) -> dist.Store:
    return serve(HERE, port, attempt(), timeout_s=5, is_on_one_host=True)


def stranger(port: int) -> dist.TCPStore:
    """A client that speaks the protocol, and knows no secret."""
    return dist.TCPStore(HERE, port, timeout=timedelta(seconds=5), wait_for_workers=False)


def key_of(first: dist.Store, theirs: dist.TCPStore, name: str) -> str:
    """What a stranger sees as the key of an entry that was just written."""
    first.get(name)  # its answer comes after the entry
    return next(key for key in theirs.list_keys() if key.endswith(name))


def overwrite_all(theirs: dist.TCPStore) -> list[str]:
    """Puts a text into every entry that is there; returns their names."""
    keys: list[str] = theirs.list_keys()
    for key in keys:
        theirs.set(key, EVIL)
    return keys


def test_ranks_with_the_secret_hear_each_other() -> None:
    port = free_port()
    first = served(port)
    other = join(HERE, port, attempt(), timeout_s=5, server=Server.RANK_0)
    other.set("report/1", "é")
    assert first.check(["report/1"])
    assert first.get("report/1").decode() == "é"
    assert not first.check(["report/2"])
    assert first.compare_set("failure", "", "mine") == b"mine"
    assert other.compare_set("failure", "", "theirs") == b"mine"


def test_a_strangers_entry_is_not_there() -> None:
    port = free_port()
    first, theirs = served(port), stranger(port)
    first.set("report/1", "ours")
    key = key_of(first, theirs, "report/1")
    assert key in overwrite_all(theirs)
    assert theirs.get(key).decode() == EVIL
    assert not first.check(["report/1"])
    with pytest.raises(LookupError, match="report/1"):
        first.get("report/1")
    first.set("report/1", "ours again")  # as the rank that was late
    assert first.get("report/1") == b"ours again"


def test_an_entry_that_a_stranger_moves_to_another_key_is_not_there() -> None:
    port = free_port()
    first, theirs = served(port), stranger(port)
    first.set("report/1", "ours")
    key = key_of(first, theirs, "report/1")
    moved = key.replace("report/1", "report/2")
    theirs.set(moved, theirs.get(key))  # type: ignore[arg-type]  # bytes too
    assert theirs.get(moved) == theirs.get(key)
    assert first.check(["report/1"])
    assert not first.check(["report/2"])


@pytest.mark.parametrize("content", [EVIL, "", b"\xff\xfe", "0" * 64 + EVIL])
def test_a_strangers_reason_does_not_keep_the_ranks_from_theirs(content: str | bytes) -> None:
    port = free_port()
    first, theirs = served(port), stranger(port)
    first.set("failure", "any")
    key = key_of(first, theirs, "failure")
    theirs.set(key, content)  # type: ignore[arg-type]  # bytes too
    theirs.get(key)
    assert first_reason(first, "ours", wait_s=0.2) == "ours"
    assert first_reason(first, "another", wait_s=0.2) == "ours"


def test_failed_json_has_no_strangers_text(tmp_path: Path) -> None:
    """A rank fails while a stranger writes into every entry, again and again."""
    port = free_port()
    first, theirs = served(port), stranger(port)
    is_over = threading.Event()

    def attack() -> None:
        while not is_over.is_set():
            theirs.set("failure", EVIL)
            theirs.set("ours/0/failure", EVIL)
            overwrite_all(theirs)

    attacking = threading.Thread(target=attack)
    attacking.start()
    try:
        other = join(HERE, port, attempt(), timeout_s=5, server=Server.LAUNCHER_OF_RANK_0)
        for rank, store in ((1, other), (0, first)):
            reporter(tmp_path, rank=rank, store=store).failed(MemoryError("no more"))
    finally:
        is_over.set()
        attacking.join()
    assert "MemoryError: no more" in failed(tmp_path)["problems"][0]["found"]
    assert EVIL not in json.dumps(failed(tmp_path))


@pytest.mark.parametrize(
    ("secret", "words"),
    [(None, "has no secret, unlike rank 0 at"), ("t" * 32, "has a secret that is not that of rank 0 at")],
)
def test_a_rank_with_another_secret_says_so_at_once(secret: str | None, words: str) -> None:
    port, began = free_port(), time.monotonic()
    first = served(port)
    with pytest.raises(CannotMeet) as caught:
        join(HERE, port, attempt(secret), timeout_s=20, server=Server.RANK_0)
    assert caught.value.problem.code == "SW638"
    assert words in caught.value.problem.found
    assert time.monotonic() - began < 10
    assert not first.check(["report/1"])


def test_a_launchers_store_to_which_rank_0_does_not_come() -> None:
    port = free_port()
    agents = dist.TCPStore(HERE, port, is_master=True, wait_for_workers=False)
    with pytest.raises(CannotMeet) as caught:
        join(HERE, port, attempt(), timeout_s=1, server=Server.LAUNCHER)
    assert caught.value.problem.code == "SW633"
    assert "rank 0 did not come to it" in caught.value.problem.found
    del agents
