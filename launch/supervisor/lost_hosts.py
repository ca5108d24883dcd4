"""Hosts that are lost, told apart from a supervisor that is cut off itself: then none of them answers."""

import time
from collections.abc import Callable

from launch.supervisor.journal import Journal

# Where no host answers at all, they are asked again for so long.
CUT_OFF_WAIT_S, CUT_OFF_PAUSE_S = 300.0, 5.0


def find_lost_hosts(
    ask: Callable[[], tuple[str, ...]], num_hosts: int, journal: Journal, is_asked: Callable[[], bool]
) -> tuple[str, ...]:
    """
    Args:
        ask: those of the hosts that do not answer now.
        is_asked: whether the supervisor was asked to stop.
    """
    deadline, is_told = time.monotonic() + CUT_OFF_WAIT_S, False
    while True:
        lost = ask()
        is_cut_off = len(lost) == num_hosts > 1
        if not is_cut_off or is_asked() or time.monotonic() > deadline:
            return lost
        if not is_told:
            journal.write(
                "cut off",
                "no host answers ssh: this machine may be cut off, so they are asked again for up to "
                f"{CUT_OFF_WAIT_S:.0f} s before they are given up",
                hosts=lost,
            )
        is_told = True
        time.sleep(CUT_OFF_PAUSE_S)
