"""Hosts of a supervised run: those that have ranks, spares, and those that were taken out."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from planner import Plan
from planner.strategy.changes import change_keys
from planner.strategy.hosts import Hosts
from planner.strategy.schema import Strategy


@dataclass(frozen=True, kw_only=True)
class PoolHost:
    """slots: how many ranks it may run."""

    name: str
    slots: int


@dataclass(frozen=True, kw_only=True)
class HostPool:
    """in_use: in the hostfile's order, which decides where each rank is. spares: the next one first."""

    in_use: tuple[PoolHost, ...]
    spares: tuple[PoolHost, ...]
    out: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the hosts with ranks."""
        return tuple(host.name for host in self.in_use)

    def take_out(self, failed: Collection[str]) -> "HostPool | None":
        """A spare in the place of each failed host, with as many ranks, so that no other rank moves.

        Failed spares leave too. None where there are too few spares with enough slots.
        """
        spares = [spare for spare in self.spares if spare.name not in failed]
        in_use = []
        for host in self.in_use:
            if host.name not in failed:
                in_use.append(host)
                continue
            fitting = next((spare for spare in spares if spare.slots >= host.slots), None)
            if fitting is None:
                return None
            spares.remove(fitting)
            in_use.append(replace(fitting, slots=host.slots))
        return HostPool(in_use=tuple(in_use), spares=tuple(spares), out=self._out_with(failed))

    def shrink(self, failed: Collection[str]) -> "HostPool":
        """All hosts that remain, those with ranks first; none is a spare."""
        left = tuple(host for host in (*self.in_use, *self.spares) if host.name not in failed)
        return HostPool(in_use=left, spares=(), out=self._out_with(failed))

    def _out_with(self, failed: Collection[str]) -> tuple[str, ...]:
        return (*self.out, *(host.name for host in (*self.in_use, *self.spares) if host.name in failed))


def pool_of(plan: Plan) -> HostPool:
    """The hosts of a plan's cluster: those without ranks are spares, whether they were called so or not."""
    cluster = plan.strategy.cluster
    used = {host.name for host in plan.hosts}
    hosts = [
        PoolHost(name=name, slots=slots)
        for name, slots in zip(cluster.hosts.names, cluster.slots, strict=True)
    ]
    return HostPool(
        in_use=tuple(host for host in hosts if host.name in used),
        spares=tuple(host for host in hosts if host.name not in used),
    )


def on_hosts(strategy: Strategy, pool: HostPool) -> Strategy:
    """The strategy on the hosts of a pool.

    Raises:
        planner.StrategyError: if its plan does not fit there.
    """
    hosts = (*pool.in_use, *pool.spares)
    per_host = strategy.cluster.gpus_per_host
    listed = Hosts(
        names=tuple(host.name for host in hosts),
        slots=tuple(None if host.slots == per_host else host.slots for host in hosts),
        are_made_up=strategy.cluster.hosts.are_made_up,
    )
    return change_keys(strategy, {"cluster.hosts": listed, "cluster.spare_hosts": len(pool.spares)})
