"""launch.torchrun.sh: the script that starts one host's ranks with torchrun, in a static rendezvous."""

import shlex

from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.site import site_conditions, site_values
from launch.scripts.template import LaunchPaths, common_conditions, common_values, fill
from planner import Plan
from planner.strategy.host_names import host_of

# Those that runtime/process/rendezvous.py takes where a launcher names none.
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000


def launch_torchrun_sh(plan: Plan, paths: LaunchPaths) -> str:
    """The script, the same for all hosts: each numbers its ranks from its place in the hostfile.

    The port has to be equal on all hosts, so it follows from the plan.
    """
    conditions = {
        "torchrun": True,
        "local": is_local(plan),
        "placeholder_hosts": has_placeholder_hosts(plan) and not is_local(plan),
    }
    first = plan.hosts[0].name
    values = {
        "STARTER": "torchrun",
        "FIRST": first,
        "ADDRESS": host_of(first),
        "PORT": str(_FIRST_PORT + int(plan.fingerprint, 16) % _NUM_PORTS),
        "LAST_NODE": str(len(plan.hosts) - 1),
        "TIMEOUT": str(round(plan.strategy.launch.timeout)),
    }
    chosen = {name for name, holds in conditions.items() if holds} | common_conditions(paths)
    common = common_values(plan, paths) | site_values(plan)
    return fill("launch.torchrun.sh.in", chosen | site_conditions(plan), common | values)


def torchrun_lines(plan: Plan, paths: LaunchPaths) -> list[str]:
    """What to type on each host."""
    script = shlex.quote(str(paths.run / "launch.torchrun.sh"))
    if is_local(plan):
        return [script]
    if has_placeholder_hosts(plan):
        return [f"on host {number}: LAUNCH_MASTER_ADDR=HOST0 {script} {number}" for number in _nodes(plan)]
    return [f"on {plan.hosts[number].name}: {script} {number}" for number in _nodes(plan)]


def _nodes(plan: Plan) -> range:
    return range(len(plan.hosts))
