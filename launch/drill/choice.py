"""Choice of drills: the kinds that are asked for and that this machine can have."""

from collections.abc import Sequence

from launch.drill.hosts import why_no_loopback, why_no_namespaces
from launch.drill.kinds import KINDS, NAMES, Kind, Place, Where
from planner import Problem, StrategyError
from planner.loading.unit_spellings import suggest_quantity
from planner.units import QuantityError, parse_quantity


def choose(names: Sequence[str], *, is_random: bool, on_cluster: bool) -> tuple[list[Kind], list[str], Where]:
    """The kinds, what was left out and why, and which hosts they have.

    Raises:
        StrategyError: for an unknown kind, or one that this machine, or a cluster, cannot have.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise StrategyError(
            [
                Problem(
                    code="SW471",
                    found=f"no kind of drill: {', '.join(unknown)}",
                    expected=f"--kind with one of: {', '.join(NAMES)}",
                    fix="correct the name",
                )
            ]
        )
    wanted = [kind for kind in KINDS if not names or kind.name in names]
    if on_cluster:
        return *_on_cluster(wanted, names, is_random=is_random), Where.CLUSTER
    if is_random:
        if other := [kind.name for kind in wanted if kind.group != "ranks" and names]:
            raise StrategyError([_not_at_random(other)])
        wanted = [kind for kind in wanted if kind.group == "ranks"]
    reason = why_no_namespaces()
    if reason is None:
        return wanted, [], Where.NAMESPACES
    if (missing := why_no_loopback()) is not None:
        raise StrategyError([_no_hosts(missing)])
    possible = [kind for kind in wanted if not kind.needs_network]
    refused = [kind.name for kind in wanted if kind.needs_network]
    if refused and names:
        raise StrategyError([_no_network(refused, reason)])
    left_out = [f"left out, as it needs a network of its own ({reason}): {name}" for name in refused]
    return possible, left_out, Where.LOOPBACK


def _on_cluster(
    wanted: Sequence[Kind], names: Sequence[str], *, is_random: bool
) -> tuple[list[Kind], list[str]]:
    """Only what the drill's own ranks do, and what is done to its own files and supervisor."""
    of_hosts = [kind.name for kind in wanted if kind.place is Place.HOSTS]
    refused = [*(["--hours"] if is_random else []), *(of_hosts if names else [])]
    if refused:
        raise StrategyError([_not_on_cluster(refused)])
    left_out = [f"left out, as the cluster's hosts are left alone: {name}" for name in of_hosts]
    return [kind for kind in wanted if kind.place is not Place.HOSTS], left_out


def parse_mtbf(text: str) -> float:
    """Seconds.

    Raises:
        StrategyError: if it is no time.
    """
    try:
        seconds = float(parse_quantity(text, "seconds"))
    except QuantityError as error:
        seconds, reason = 0.0, f": {error}"
    else:
        reason = ""
    if seconds <= 0:
        meant = suggest_quantity(text, "seconds")
        written = "10 min" if meant is None or meant.text.startswith("0 ") else meant.text
        raise StrategyError(
            [
                Problem(
                    code="SW478",
                    found=f"--mtbf {text!r} is no time between faults{reason}",
                    expected="a time above 0 with its unit",
                    fix=f"write --mtbf '{written}'"
                    + (f" ({meant.hint})" if meant is not None and meant.hint else ""),
                )
            ]
        )
    return seconds


def _not_on_cluster(names: Sequence[str]) -> Problem:
    return Problem(
        code="SW470",
        found=f"{', '.join(names)} is not drilled on a cluster",
        expected="with --on-cluster, faults of the drill's own ranks, files and supervisor, in one run",
        fix="leave it out, or leave out --on-cluster: on hosts of its own a drill does anything",
    )


def _not_at_random(names: Sequence[str]) -> Problem:
    possible = ", ".join(kind.name for kind in KINDS if kind.group == "ranks")
    return Problem(
        code="SW479",
        found=f"{', '.join(names)} is not drilled at random",
        expected=f"with --hours, kinds that ranks do to themselves: {possible}",
        fix="leave it out, or leave out --hours",
    )


def _no_hosts(missing: str) -> Problem:
    return Problem(
        code="SW475",
        found=f"this machine cannot have hosts for drills: {missing}",
        expected="OpenSSH's client and server, and pdsh",
        fix="apt-get install openssh-server openssh-client pdsh",
    )


def _no_network(names: Sequence[str], reason: str) -> Problem:
    return Problem(
        code="SW476",
        found=f"{', '.join(names)} needs hosts with a network of their own, which this machine cannot have: "
        f"{reason}",
        expected="root, and unshare, ip and tc (util-linux, iproute2)",
        fix="run it as root, or leave that kind out",
    )
