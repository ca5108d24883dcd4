"""launch.sh: the script that starts a plan's ranks with DeepSpeed and says whether the run is done."""

import shlex

from launch.scripts.hostfile import MAX_PDSH_HOSTS, has_placeholder_hosts, is_local
from launch.scripts.site import site_conditions, site_values
from launch.scripts.template import LaunchPaths, common_conditions, common_values, fill
from launch.ssh.options import OPTIONS
from planner import Plan


def launch_sh(plan: Plan, paths: LaunchPaths) -> str:
    """The script; it exits with 0 only if rank 0 wrote a new done.json."""
    conditions = {
        "launch_sh": True,
        "local": is_local(plan),
        "cpu": plan.strategy.cluster.gpu.is_cpu,
        "placeholder_hosts": has_placeholder_hosts(plan) and not is_local(plan),
        "ssh_config": paths.ssh_config is not None,
    }
    values = {
        "FIRST": shlex.quote(plan.hosts[0].name),
        "LAST": ",".join(map(str, range(plan.world_size))),
        "FAN_OUT": str(MAX_PDSH_HOSTS),
        "PROGRAM": shlex.join(paths.program),
        "SSH_OPTIONS": " ".join(OPTIONS),
        "SSH_CONFIG": shlex.quote(str(paths.ssh_config)),
        "LOOK": "what the ranks said above" + ("" if is_local(plan) else ", and logs/"),
    }
    chosen = {name for name, holds in conditions.items() if holds} | common_conditions(paths)
    common = common_values(plan, paths) | site_values(plan)
    return fill("launch.sh.in", chosen | site_conditions(plan), common | values)
