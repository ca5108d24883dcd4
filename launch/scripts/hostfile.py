"""The hostfile of a plan: full hosts in their order, the partial host last, spares left out."""

from collections.abc import Iterator

from planner import Plan, Problem

# DeepSpeed 0.19.8 gives pdsh this fan-out (launcher/constants.py:7): hosts beyond it would start only when
# others have ended, and all would wait for them.
MAX_PDSH_HOSTS = 1024


def hostfile(plan: Plan) -> str:
    """`name slots=N` a line, in rank order.

    DeepSpeed 0.19.8 numbers ranks strictly in this order, and takes a local rank modulo its own host's slots
    (launcher/launch.py:213): right only while no host before it has fewer, which `plan.hosts` keeps.
    """
    sizes = [len(host.ranks) for host in plan.hosts]
    assert sizes == sorted(sizes, reverse=True), sizes
    lines = [f"{host.name} slots={len(host.ranks)}" for host in plan.hosts]
    return "\n".join((f"# plan {plan.fingerprint}", *lines)) + "\n"


def is_local(plan: Plan) -> bool:
    """Whether the launch needs no ssh: one host, and it is the machine where it is started."""
    return [host.name for host in plan.hosts] == ["localhost"]


def made_up(plan: Plan) -> bool:
    """Whether the names stand for a number of hosts that nobody named."""
    return plan.strategy.cluster.hosts.are_made_up


def host_problems(plan: Plan) -> Iterator[Problem]:
    """What these hosts keep from being launched on."""
    yield from _split_tp_groups(plan)
    if is_local(plan):
        return
    names = [host.name for host in plan.hosts]
    if "localhost" in names:
        yield _problem(
            f"localhost is one of {len(names)} hosts, and each of them takes it for itself",
            "names that mean the same machine on every host",
            "write the name by which the other hosts reach it",
        )
    for name in names:
        if ":" in name:
            yield _problem(
                f"pdsh takes what stands before a colon in {name} for a way to connect",
                "a name or an IPv4 address",
                "give the address a name in the ssh configuration (HostName), and write that here",
            )
    if len(names) > MAX_PDSH_HOSTS:
        yield _problem(
            f"the plan is on {len(names)} hosts, and DeepSpeed starts {MAX_PDSH_HOSTS} at a time over ssh",
            f"at most {MAX_PDSH_HOSTS} hosts",
            "use fewer hosts",
        )


def _split_tp_groups(plan: Plan) -> Iterator[Problem]:
    """TP partners exchange every layer's activations: a group between hosts is a mistake in the hosts."""
    for stage in plan.stages:
        for group in stage.dense.groups("tp"):
            hosts = list(dict.fromkeys(plan.host_of(rank).name for rank in (group[0], group[-1])))
            if len(hosts) > 1:
                tp = plan.strategy.parallel.tp
                yield Problem(
                    path="parallel.tp",
                    line=None,
                    found=f"the TP group of ranks {group[0]}-{group[-1]} spans {' and '.join(hosts)}",
                    expected="every TP group inside one host",
                    fix=f"give all hosts but the last a multiple of {tp} slots, or lower parallel.tp",
                )
                return


def _problem(found: str, expected: str, fix: str) -> Problem:
    return Problem(path="cluster.hosts", line=None, found=found, expected=expected, fix=fix)
