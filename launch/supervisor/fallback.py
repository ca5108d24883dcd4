"""Another plan for the hosts that are left, where no spare can replace those that failed."""

from collections.abc import Sequence
from dataclasses import replace

from launch.supervisor.host_pool import HostPool, on_hosts, pool_of
from planner import Problem, StrategyError
from planner.search.search import search
from planner.search.trainable import untrainable_keys
from planner.strategy.schema import Strategy


def shrink(strategy: Strategy, pool: HostPool, failed: Sequence[str]) -> tuple[Strategy, HostPool]:
    """The fastest plan that fits without the failed hosts and can be trained, and its hosts.

    Raises:
        StrategyError: if there is none.
    """
    left = pool.shrink(failed)
    if not left.in_use:
        raise StrategyError([_no_plan(failed, "no host is left")])
    rows = search(on_hosts(strategy, left)).rows
    best = next((row for row in rows if not untrainable_keys(row.strategy)), None)
    if best is None:
        raise StrategyError([_no_plan(failed, f"{len(left.in_use)} hosts are left")])
    return best.strategy, replace(pool_of(best.plan), out=left.out)


def _no_plan(failed: Sequence[str], left: str) -> Problem:
    return Problem(
        code="SW452",
        path="cluster.hosts",
        found=f"{', '.join(failed)} left, no spare is there, and {left}: no plan fits there and trains",
        expected="hosts on which a plan of this model fits",
        fix="add hosts, or start again with the strategy of the first row of `python -m launch fallback "
        "STRATEGY --lost-hosts N`",
    )
