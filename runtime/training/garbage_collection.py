"""Python's garbage collector: off while a step runs, so that no rank pauses in it while the others wait."""

import contextlib
import gc
from collections.abc import Iterator


def freeze_what_stays() -> None:
    """Once, when everything is built: modules, model and engine need no more looking through."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collects nothing inside; what is due comes after it. Leaves a collector that was off as it was."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
