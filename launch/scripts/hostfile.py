"""Hostfile of a plan: full hosts in their order, the partial host last, without spares; rules on hosts."""

from collections.abc import Iterator

from planner import Plan, Problem
from planner.strategy.host_names import is_loopback

# DeepSpeed 0.19.8 runs pdsh with this fan-out (launcher/constants.py:7): more hosts would start only after
# others have ended, which wait for them.
MAX_PDSH_HOSTS = 1024


def hostfile(plan: Plan) -> str:
    """One line `name slots=N` for each host, in rank order.

    DeepSpeed 0.19.8 numbers ranks in this order, and computes a local rank modulo its own host's slots
    (launcher/launch.py:213): correct only if no earlier host has fewer slots, which `plan.hosts` guarantees.
    """
    sizes = [len(host.ranks) for host in plan.hosts]
    assert sizes == sorted(sizes, reverse=True), sizes
    lines = [f"{host.name} slots={len(host.ranks)}" for host in plan.hosts]
    return "\n".join((f"# plan {plan.fingerprint}", *lines)) + "\n"


def is_local(plan: Plan) -> bool:
    """Whether the launch needs no ssh: the only host is the machine where it is started."""
    return [host.name for host in plan.hosts] == ["localhost"]


def has_placeholder_hosts(plan: Plan) -> bool:
    """Whether cluster.hosts is a number, so that the host names are placeholders."""
    return plan.strategy.cluster.hosts.are_made_up


def host_problems(plan: Plan) -> Iterator[Problem]:
    """Properties of the hosts that prevent a launch."""
    if is_local(plan):
        return
    names = [host.name for host in plan.hosts]
    local = next((name for name in names if is_loopback(name)), None)
    if local is not None and len(names) > 1:
        yield Problem(
            code="SW404",
            path="cluster.hosts",
            found=f"{local} is one of {len(names)} hosts, but names a different machine on each of them",
            expected="names that resolve to the same machine on every host",
            fix="write the name by which the other hosts reach it",
        )
    for name in names:
        if ":" in name:
            yield Problem(
                code="SW405",
                path="cluster.hosts",
                found=f"pdsh would read {name.partition(':')[0]!r} of {name} as the connection type",
                expected="a host name or an IPv4 address, without a colon",
                fix="give the address an alias in the ssh configuration (Host, HostName) and write that here",
            )
    if len(names) > MAX_PDSH_HOSTS:
        yield Problem(
            code="SW406",
            path="cluster.hosts",
            found=f"the plan needs {len(names)} hosts; DeepSpeed starts at most {MAX_PDSH_HOSTS} over ssh",
            expected=f"at most {MAX_PDSH_HOSTS} hosts",
            fix="use fewer hosts",
        )


def made_up_hosts(plan: Plan) -> Problem | None:
    """A Problem where a launch would have to reach hosts that have no names."""
    if is_local(plan) or not has_placeholder_hosts(plan):
        return None
    return Problem(
        code="SW453",
        path="cluster.hosts",
        found=f"{plan.strategy.cluster.hosts.count} hosts without names: {plan.hosts[0].name} … are made up",
        expected="the names by which ssh reaches them",
        fix="list the names, or write hostfile: FILE",
    )
