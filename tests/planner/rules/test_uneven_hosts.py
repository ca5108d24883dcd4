"""SW214 on hosts with different numbers of slots: what is counted, and the fix that makes room."""

import pytest

from planner import StrategyError
from tests.support.examples import strategy


@pytest.mark.parametrize(
    ("hosts", "spare", "parallel", "found", "fix"),
    [
        # 4 + 8 + 8 slots; 44 more ranks are 6 hosts of 8
        ("[a slots=4, b, c]", 0, "EP64", "3 hosts have 20 slots", "add 6 hosts of 8 slots"),
        ("[a slots=4, b, c]", 0, "EP16_DP2", "3 hosts have 20 slots", "set parallel.dp to 1"),
        # the spare host is the last one: after one more, the three of today are used
        (
            "[a slots=4, b slots=4, c]",
            1,
            "EP16",
            "2 hosts (1 of 3 are spare) have 8 slots",
            "set cluster.spare_hosts to 0",
        ),
        ("[a slots=4, b slots=4, c slots=4]", 1, "EP16", "have 8 slots", "add 2 hosts of 8 slots"),
        ("[a]", 0, "EP16", "1 host has 8 slots", "add 1 host of 8 slots"),
        ("3", 0, "EP64", "3 hosts have 24 slots", "set cluster.hosts to 8"),
    ],
)
def test_the_fix_makes_room(hosts: str, spare: int, parallel: str, found: str, fix: str) -> None:
    given = [f"cluster.hosts={hosts}", f"cluster.spare_hosts={spare}", f"parallel={parallel}"]
    with pytest.raises(StrategyError) as caught:
        strategy(*given)
    (problem,) = caught.value.problems
    assert problem.code == "SW214"
    assert found in problem.found
    assert problem.fix.startswith(fix)
    if fix.startswith("add"):
        number = int(fix.split()[1])
        more = ", ".join(f"new{i}" for i in range(number))
        assert strategy(f"cluster.hosts={hosts[:-1]}, {more}]", *given[1:])
        less = ", ".join(f"new{i}" for i in range(number - 1))
        with pytest.raises(StrategyError):
            strategy(f"cluster.hosts={hosts[:-1]}{', ' * bool(less)}{less}]", *given[1:])
