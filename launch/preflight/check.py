"""One verdict of preflight, and the small tools that rules share: majority, outliers of versions, roles."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from planner import Plan

Verdict = Literal["passes", "fails", "unknown"]
V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, on which host (None: between hosts, or the whole), and how it stands.

    A check that fails says what to do (`fix`); `unknown` says why it could not be looked at.
    """

    name: str
    host: str | None
    verdict: Verdict
    found: str
    expected: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.verdict != "fails" or (self.expected and self.fix), self


@dataclass(frozen=True, kw_only=True)
class Role:
    """A host of the strategy as preflight sees it; a spare carries no ranks and must be ready to."""

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
    """The hosts with ranks in rank order, then the spares; hosts that are neither are left out."""
    cluster = plan.strategy.cluster
    slots = dict(zip(cluster.hosts.names, cluster.slots, strict=True))
    names = cluster.hosts.names[cluster.hosts.count - cluster.spare_hosts :]
    used = [Role(name=host.name, slots=len(host.ranks), ranks=host.ranks) for host in plan.hosts]
    return (*used, *(Role(name=name, slots=slots[name], ranks=()) for name in names))


def unused_hosts(plan: Plan) -> tuple[str, ...]:
    """Hosts of the strategy that neither carry ranks nor are spares: nobody needs them ready."""
    known = {role.name for role in roles_of(plan)}
    return tuple(name for name in plan.strategy.cluster.hosts.names if name not in known)


def equal_everywhere(
    name: str, values: Mapping[str, str | None], *, missing: str, fix: str
) -> Iterator[Check]:
    """One check a host: whether it has what most hosts have; between equal camps the first host's.

    Args:
        missing: what it means that a host has none, where others have.
    """
    counts = Counter(values.values())
    first = next(iter(values.values()))
    most = max(counts, key=lambda value: (value is not None, counts[value], value == first))
    for host, value in values.items():
        if value == most:
            yield Check(name=name, host=host, verdict="passes", found=value or missing)
        else:
            others = counts[most]
            yield Check(
                name=name,
                host=host,
                verdict="fails",
                found=value or missing,
                expected=f"{most}, as on {others} of {len(values)} hosts",
                fix=fix,
            )
