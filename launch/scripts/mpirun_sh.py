"""launch.mpirun.sh: the script that starts a plan's ranks with Open MPI, in the plan's order of hosts."""

import re
import shlex
from collections.abc import Iterator

from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.site import site_conditions, site_values
from launch.scripts.template import LaunchPaths, common_conditions, common_values, fill
from launch.ssh.options import OPTIONS
from planner import Plan, Problem


def launch_mpirun_sh(plan: Plan, paths: LaunchPaths) -> str:
    """The script; it exits with 0 only if rank 0 wrote a new done.json."""
    conditions = {
        "local": is_local(plan),
        "placeholder_hosts": has_placeholder_hosts(plan) and not is_local(plan),
        "ssh_config": paths.ssh_config is not None,
    }
    values = {
        "STARTER": "mpirun",
        "FIRST": shlex.quote(plan.hosts[0].name),
        "SSH_OPTIONS": " ".join(OPTIONS),
        "SSH_CONFIG": shlex.quote(str(paths.ssh_config)),
    }
    chosen = {name for name, holds in conditions.items() if holds} | common_conditions(paths)
    common = common_values(plan, paths) | site_values(plan)
    return fill("launch.mpirun.sh.in", chosen | site_conditions(plan), common | values)


def mpirun_problems(plan: Plan, paths: LaunchPaths) -> Iterator[Problem]:
    """Open MPI splits its options for ssh at spaces."""
    if not is_local(plan) and paths.ssh_config is not None and re.search(r"\s", str(paths.ssh_config)):
        yield Problem(
            code="SW402",
            path="launch.ssh_config",
            found=f"Open MPI would split the path {str(paths.ssh_config)!r} at its spaces",
            expected="a path without spaces, where there are several hosts",
            fix="use another path, or a symbolic link to it",
        )
