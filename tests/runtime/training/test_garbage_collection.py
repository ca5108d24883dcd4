"""No collection inside a step, whatever is due, and what was made before the steps is not looked through."""

import gc
from collections.abc import Iterator

import pytest

from runtime.training.garbage_collection import freeze_what_stays, no_collection


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of every collection that happens in the test."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.unfreeze()


def _make_cycles() -> None:
    for _ in range(10 * gc.get_threshold()[0]):
        cycle: list[object] = []
        cycle.append(cycle)


def test_collections_wait_until_the_step_is_over(collections: list[int]) -> None:
    _make_cycles()
    assert collections
    collections.clear()
    with no_collection():
        _make_cycles()
        assert not collections
    _make_cycles()
    assert collections


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_is_on_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="in a step"), no_collection():
        raise ValueError("in a step")
    assert gc.isenabled()


def test_what_stays_is_looked_through_no_more(collections: list[int]) -> None:
    kept = [[] for _ in range(10_000)]
    before = gc.get_freeze_count()
    freeze_what_stays()
    assert gc.get_freeze_count() - before > len(kept)
    assert not any(tracked is kept for tracked in gc.get_objects())
