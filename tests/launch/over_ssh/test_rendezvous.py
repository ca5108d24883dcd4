"""Why ranks on several hosts did not meet: a line of its own for each cause, on launch.sh's terminal."""

from typing import Any

import pytest

from tests.support.namespaces import run_inside
from tests.support.rendezvous import TIMEOUT_S

pytestmark = pytest.mark.slow
# From the start of the ranks, beside launch.timeout: loading torch, on a busy machine; where a host does not
# answer, launch.sh waits 30 s for it and then ends the others, of which a stopped process takes 30 s.
OVERHEAD_S = 120
CAUSES = {
    "taken port": ("SW632", "rank 0 cannot listen on port 29510 of node1: it is in use (pid "),
    "unknown name": ("SW633", "cannot resolve the name of rank 0's host, nosuch.invalid (after "),
    "other interface": ("SW633", "node2 has no route to 10.99.0.1:29520 (after "),
    "firewall": ("SW633", "10.88.0.1:29520 does not answer node2 (after "),
    "a peer that never came": ("SW611", "rank 1 (on node2 by the plan) did not report within "),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside("tests.support.rendezvous", tmp_path_factory.mktemp("meet"), timeout=1800)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_on_the_terminal_and_the_launch_ends_in_time(seen: dict[str, Any], cause: str) -> None:
    end = seen[cause]
    code, words = CAUSES[cause]
    said = [line for line in end["terminal"].splitlines() if f"{code} " in line]
    assert any(words in line for line in said), end["terminal"]
    assert end["code"] in (2, 3)
    assert end["failed"]["code"] == end["code"]
    assert end["left"] == []
    assert end["seconds"] < TIMEOUT_S + OVERHEAD_S
    for noise in ("Traceback", "frame #", "SW631", "out of memory"):
        assert noise not in end["terminal"]
