"""Threads that serve a rank beside its main one. None may end unseen: the rank would no longer be served."""

import threading
from collections.abc import Callable
from typing import NoReturn


def start_service(name: str, serve: Callable[[], object], fail_now: Callable[[str], NoReturn]) -> None:
    """Starts a daemon thread that runs `serve`, which must not return.

    Args:
        fail_now: called from the thread with the reason if `serve` returns or raises; ends the process.
    """

    def run() -> None:
        try:
            serve()
            how = "it returned"
        except BaseException as error:  # SystemExit too: nothing may end the service alone
            how = f"{type(error).__name__}: {error}"
        fail_now(f"SW953 the thread {name} ended ({how}), and the rank cannot run without it")

    threading.Thread(target=run, name=name, daemon=True).start()
