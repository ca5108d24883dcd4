"""Verdicts of a preflight, comparison between hosts, and the roles of hosts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from planner import Plan

CheckVerdict = Literal["passes", "fails", "unknown"]


@dataclass(frozen=True, kw_only=True)
class PreflightCheck:
    """What was checked, on which host (None: between hosts, or the launch as a whole), and the verdict.

    A check that fails has a code and a fix; `unknown` says why it could not be checked.
    """

    name: str
    host: str | None
    verdict: CheckVerdict
    found: str
    code: str = ""
    expected: str = ""
    fix: str = ""


def passed(name: str, found: str, host: str | None = None) -> PreflightCheck:
    return PreflightCheck(name=name, host=host, verdict="passes", found=found)


def unknown(name: str, found: str, host: str | None = None) -> PreflightCheck:
    return PreflightCheck(name=name, host=host, verdict="unknown", found=found)


def failed(
    code: str, name: str, found: str, *, expected: str, fix: str, host: str | None = None
) -> PreflightCheck:
    """`code` is of the error catalog, as a Problem's."""
    return PreflightCheck(
        name=name, host=host, verdict="fails", found=found, code=code, expected=expected, fix=fix
    )


@dataclass(frozen=True, kw_only=True)
class Role:
    """A host of the strategy and its ranks; a spare has none, but must be ready to run some."""

    name: str
    slots: int
    ranks: tuple[int, ...]

    @property
    def is_spare(self) -> bool:
        return not self.ranks

    def __str__(self) -> str:
        if self.is_spare:
            return "spare"
        first, last = self.ranks[0], self.ranks[-1]
        return f"rank {first}" if first == last else f"ranks {first}-{last}"


def roles_of(plan: Plan) -> tuple[Role, ...]:
    """Hosts with ranks in rank order, then the spares; hosts that are neither are left out."""
    cluster = plan.strategy.cluster
    slots = dict(zip(cluster.hosts.names, cluster.slots, strict=True))
    names = cluster.hosts.names[cluster.hosts.count - cluster.spare_hosts :]
    used = [Role(name=host.name, slots=len(host.ranks), ranks=host.ranks) for host in plan.hosts]
    return (*used, *(Role(name=name, slots=slots[name], ranks=()) for name in names))


def unused_hosts(plan: Plan) -> tuple[str, ...]:
    """Hosts of the strategy that neither run ranks nor are spares, so need not be ready."""
    known = {role.name for role in roles_of(plan)}
    return tuple(name for name in plan.strategy.cluster.hosts.names if name not in known)


def equal_everywhere(
    code: str, name: str, values: Mapping[str, str | None], *, missing: str, fix: str
) -> Iterator[PreflightCheck]:
    """One check for each host: whether it has what most hosts have; in a tie, what the first host has.

    Args:
        missing: what to print for a host that has none.
    """
    counts = Counter(values.values())
    first = next(iter(values.values()))
    most = max(counts, key=lambda value: (value is not None, counts[value], value == first))
    for host, value in values.items():
        if value == most:
            yield passed(name, value or missing, host)
        else:
            expected = f"{most}, as on {counts[most]} of {len(values)} hosts"
            yield failed(code, name, value or missing, expected=expected, fix=fix, host=host)
