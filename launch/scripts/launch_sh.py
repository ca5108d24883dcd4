"""launch.sh: the script that starts a plan's ranks with DeepSpeed and says whether the run is done."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from launch.scripts.env_file import OPERATOR_VARIABLES
from launch.scripts.hostfile import MAX_PDSH_HOSTS, is_local, made_up
from launch.scripts.launch_sh_end import (
    CLEAN,
    CLEAN_HERE,
    END_GUARD,
    GUARD,
    RESULT,
    START_GUARD,
    TRAPS,
    WATCH,
)
from launch.scripts.launch_sh_start import CPU_DEVICES, GPU_DEVICES, LOCAL_START, REMOTE_START, SSH_CONFIG
from launch.ssh.options import OPTIONS
from planner import Plan

# The files that a launch reads or keeps; each carries the plan's fingerprint.
STAMPED = ("strategy.yaml", "plan.json", "ds_config.json", "hostfile", "env")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a launch happens: paths that are the same on every host.

    project: the folder of train.py. run: the run's folder. python: the interpreter, a path or a name.
    program: what every rank runs, as DeepSpeed's runner takes it; it writes done.json or failed.json to run.
    """

    project: Path
    run: Path
    python: str
    ssh_config: Path | None
    program: tuple[str, ...] = ("train.py",)


def launch_sh(plan: Plan, place: Place) -> str:
    """The whole script; ends 0 only if rank 0 wrote a new done.json."""
    start = LOCAL_START if is_local(plan) else REMOTE_START
    is_cpu = plan.strategy.cluster.gpu.is_cpu
    text = "\n".join((_OPENING, CHECKS, start + GUARD, RESULT))
    for name, fragment in {
        "WHO": "launch.sh",
        "TRAPS": TRAPS,
        "WATCH": "" if is_local(plan) else WATCH,
        "GUARD": START_GUARD,
        "END_GUARD": END_GUARD,
        "CLEAN": CLEAN_HERE if is_local(plan) else CLEAN,
        "AFTER": "",
        "DEVICES": CPU_DEVICES if is_cpu else GPU_DEVICES,
        "ACCELERATOR": "export DS_ACCELERATOR=cpu\n" if is_cpu else "",
        "MADE_UP": _MADE_UP if made_up(plan) and not is_local(plan) else "",
        "LOOK": "what the ranks said above" if is_local(plan) else "logs/",
        "SSH_CONFIG": "" if place.ssh_config is None else SSH_CONFIG,
    }.items():
        text = text.replace(f"@{name}@", fragment)
    return fill(text, plan, place)


def _as_it_is(place: Place) -> str:
    """A word to shellcheck where a path holds what a shell would expand outside of quotes."""
    if re.search(r"[$`]", f"{place.project}{place.run}{place.python}"):
        return "# shellcheck disable=SC2016 # a $ or ` in a path means itself\n"
    return ""


def fill(text: str, plan: Plan, place: Place) -> str:
    """A template with its @NAMES@ replaced; everything from outside is quoted for the shell."""
    hosts, world = len(plan.hosts), plan.world_size
    values = {
        "NAME": plan.strategy.name,
        "AS_IT_IS": _as_it_is(place),
        "RANKS": f"{world} rank{'s' if world > 1 else ''} on {hosts} host{'s' if hosts > 1 else ''}",
        "PLAN": plan.fingerprint,
        "PROJECT": shlex.quote(str(place.project)),
        "RUN": shlex.quote(str(place.run)),
        "PYTHON": shlex.quote(place.python),
        "FILES": " ".join(STAMPED),
        "OPERATOR": " ".join(OPERATOR_VARIABLES),
        "WORLD": str(world),
        "LAST": ",".join(map(str, range(world))),
        "FIRST": shlex.quote(plan.hosts[0].name),
        "FAN_OUT": str(MAX_PDSH_HOSTS),
        "PROGRAM": shlex.join(place.program),
        "SSH_OPTIONS": " ".join(OPTIONS),
        "SSH_CONFIG_FILE": shlex.quote(str(place.ssh_config)),
    }
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match.group(1)], text)


_OPENING = """\
#!/usr/bin/env bash
@AS_IT_IS@# Starts @NAME@: @RANKS@.
# plan @PLAN@. Made by `python -m launch generate`: generate again rather than edit.
# Usage: launch.sh [PORT]. Ends 0 done, 2 wrong input, 3 something broke, 130 stopped on request.
set -euo pipefail

project=@PROJECT@
run=@RUN@
python=@PYTHON@
plan=@PLAN@

refuse() {
  printf 'launch.sh: %s\\n' "$*" >&2
  exit 2
}

# A fresh port each time: the sockets of the last attempt may still be closing.
port=${1:-$((20000 + RANDOM % 12000))}
[[ $# -le 1 && $port =~ ^[0-9]{1,5}$ ]] || refuse 'usage: launch.sh [PORT]'
((10#$port >= 1 && 10#$port <= 65535)) || refuse "the port $port is none: 1 to 65535"
@MADE_UP@"""

_MADE_UP = """\

made_up=yes # the names in the hostfile stand for hosts that nobody named
[[ $made_up == no ]] || refuse "the host names (@FIRST@ …) are made up, as cluster.hosts is a number:" \\
  "list the real ones under cluster.hosts and generate again, or submit launch.sbatch, which takes Slurm's"
"""

CHECKS = """\
cd "$project" || refuse "the project's folder is not there: generate again where it is now"
command -v "$python" >/dev/null || refuse "there is no $python here"
# Files of two plans side by side (a half-finished generate, a run started by hand) must not be launched.
for file in @FILES@; do
  grep -qsF "$plan" "$run/$file" || refuse "$run/$file is not of plan $plan: generate again"
done
# What an operator exports must reach every rank, so it must be in the file that does.
for name in @OPERATOR@; do
  if [[ -n ${!name:-} ]] && ! grep -qxF "$name=${!name}" "$run/env"; then
    refuse "$name=${!name} is not what $run/env says: generate again with it set, or unset it"
  fi
done
done_before=$(cat "$run/done.json" 2>/dev/null || true)
failed_before=$(cat "$run/failed.json" 2>/dev/null || true)
# Made here: the hosts would race for it.
mkdir -p "$run/logs" || refuse "the run's folder $run cannot be written"
"""
