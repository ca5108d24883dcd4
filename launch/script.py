"""launch.sh: the script that starts a plan's ranks with DeepSpeed and says whether the run is done."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from launch.envfile import OPERATOR_VARIABLES
from launch.hostfile import MAX_PDSH_HOSTS, is_local, made_up
from launch.ssh_options import OPTIONS
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
    start = _LOCAL_START if is_local(plan) else _REMOTE_START
    is_cpu = plan.strategy.cluster.gpu.is_cpu
    text = "\n".join((_OPENING, CHECKS, start + _GUARD, RESULT))
    for name, fragment in {
        "WHO": "launch.sh",
        "TRAPS": TRAPS,
        "WATCH": "" if is_local(plan) else _WATCH,
        "GUARD": "guard &\n",
        "CLEAN": _CLEAN,
        "AFTER": "",
        "DEVICES": _CPU_DEVICES if is_cpu else _GPU_DEVICES,
        "ACCELERATOR": "export DS_ACCELERATOR=cpu\n" if is_cpu else "",
        "MADE_UP": _MADE_UP if made_up(plan) and not is_local(plan) else "",
        "SSH_CONFIG": "" if place.ssh_config is None else _SSH_CONFIG,
    }.items():
        text = text.replace(f"@{name}@", fragment)
    return fill(text, plan, place)


def fill(text: str, plan: Plan, place: Place) -> str:
    """A template with its @NAMES@ replaced; everything from outside is quoted for the shell."""
    hosts, world = len(plan.hosts), plan.world_size
    values = {
        "NAME": plan.strategy.name,
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
# Starts @NAME@: @RANKS@.
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
[[ $# -le 1 && $port =~ ^[0-9]+$ ]] || refuse 'usage: launch.sh [PORT]'
@MADE_UP@"""

_MADE_UP = """\

made_up=yes # the names in the hostfile stand for hosts that nobody named
[[ $made_up == no ]] || refuse "the host names (@FIRST@ …) are made up, as cluster.hosts is a number:" \\
  "list the real ones under cluster.hosts and generate again, or submit launch.sbatch, which takes Slurm's"
"""

CHECKS = """\
cd "$project"
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
mkdir -p "$run/logs"
"""

_CPU_DEVICES = """\
unset CUDA_VISIBLE_DEVICES # DeepSpeed would take it for a list of this machine's slots
"""

_GPU_DEVICES = """\
# DeepSpeed ignores it beside --num_gpus and takes the first GPUs, which may be someone else's.
case ${CUDA_VISIBLE_DEVICES:-} in
  '' | @LAST@) unset CUDA_VISIBLE_DEVICES ;;
  *) refuse "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES, but DeepSpeed would take GPUs @LAST@: unset it" ;;
esac
"""

# What runs through a link of its own to the interpreter is this attempt, and nothing else on a host.
_LINK = """\
link=$("$python" -m launch.job make "$run/logs") || refuse "$python -m launch.job does not run here"
trap '"$python" -m launch.job remove "$link"' EXIT
"""

_LOCAL_START = (
    """\
@DEVICES@# DeepSpeed reads an environment file on many hosts only.
while IFS= read -r variable; do
  export "${variable?}"
done <"$run/env"

# shellcheck disable=SC2317 # called by the traps
on_hosts() {
  "$python" -m launch.job "$1" "$link"
}

"""
    + _LINK
    + """
# No file is called /dev/null/hostfile: without the flag DeepSpeed reads /job/hostfile where there is one.
command=("$link" -m deepspeed.launcher.runner --hostfile /dev/null/hostfile --num_gpus @WORLD@
  --master_port "$port" --no_local_rank --quiet @PROGRAM@ --strategy "$run/strategy.yaml")
"""
)

_SSH_CONFIG = """\
ssh_config=@SSH_CONFIG_FILE@
[[ -r $ssh_config ]] || refuse "the ssh configuration $ssh_config cannot be read"
ssh_options+=(-F "$ssh_config")
"""

_REMOTE_START = (
    """\
command -v pdsh >/dev/null || refuse 'DeepSpeed starts other hosts with pdsh, which is not installed here'
# Never a prompt, and an end where a host is cut off: without keep-alives pdsh would wait for ever.
ssh_options=(@SSH_OPTIONS@)
@SSH_CONFIG@export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} ${ssh_options[*]}"
export PDSH_RCMD_TYPE=ssh DS_ENV_FILE="$run/env"
@ACCELERATOR@# DeepSpeed hands these on to the hosts' shells, which would read these characters; pdsh reads %.
altered='*[$`"%\\\\]*'
for name in $(compgen -e); do
  case $name in
    PYTHON* | UCX* | MLFLOW* | MV2* | NCCL*)
      # shellcheck disable=SC2053 # a pattern
      if [[ ${!name} == $altered || ${!name} == *$'\\n'* ]]; then
        refuse "$name=${!name} would not reach the hosts as it is: unset it"
      fi
      ;;
  esac
done
hosts=$(sed -n 's/^\([^# ][^ ]*\) slots=.*/\\1/p' "$run/hostfile" | paste -s -d , -)
# Rank 0 is on the first host; where that is an alias of ssh's, this is what it stands for.
# LAUNCH_MASTER_ADDR names another address of that host.
master=${LAUNCH_MASTER_ADDR:-$(ssh "${ssh_options[@]}" -G @FIRST@ | sed -n 's/^hostname //p')} ||
  refuse "ssh cannot read its configuration"
[[ $master =~ ^[A-Za-z0-9_.:-]+$ ]] || refuse "the address $master of rank 0 is no name or number"

on_hosts() {
  pdsh -S -f @FAN_OUT@ -w "$hosts" "cd '$project' && '$python' -m launch.job $1 '$link'"
}

"""
    + _LINK
    + """
# A host that is down, or sees other files, is told now and by its name; the others would wait for it.
ready="for _ in 1 2 3 4 5 6 7 8; do
  [ -r '$project/train.py' ] && [ -x '$link' ] && exit 0
  sleep 1
done
echo 'it does not see $project/train.py and $link: they must be at the same shared paths on all hosts'
exit 1"
pdsh -S -f @FAN_OUT@ -w "$hosts" "$ready" >&2 || refuse 'not every host is ready (see above); nothing was started'

# DeepSpeed's own check of ssh knows nothing of the options above.
command=("$link" -m deepspeed.launcher.runner --hostfile "$run/hostfile" --force_multi --no_ssh_check
  --master_addr "$master" --master_port "$port" --no_local_rank --enable_each_rank_log "$run/logs"
  @PROGRAM@ --strategy "$run/strategy.yaml")
echo "launch.sh: @RANKS@; rank 0 tells the story in $run/logs/*_rank0.log"
"""
)

# Said of a host whose launcher failed or whose connection broke, while the ranks elsewhere may wait for its own.
_WATCH = """ 2> >(
  while IFS= read -r line; do
    printf '%s\\n' "$line" >&2
    [[ $line != pdsh@*': ssh exited with exit code '* ]] || : >"${link%/*}/host-ended"
  done
)"""

# Beside what the launcher does itself: it says nothing when it is killed, and waits when a host is lost.
_GUARD = """
# Ends the attempt when this script is killed, or when one host has been out of it for 30 s.
guard() {
  local out=0
  trap '' INT TERM HUP
  while kill -0 "$launcher" 2>/dev/null; do
    sleep 1
    [[ ! -e ${link%/*}/host-ended ]] || out=$((out + 1))
    if ((out > 30)) || ! kill -0 $$ 2>/dev/null; then
      on_hosts end || true
      kill -KILL "$launcher" 2>/dev/null
      kill -0 $$ 2>/dev/null || "$python" -m launch.job remove "$link"
      return
    fi
  done
}
"""

# What is left when the launcher did not end by itself.
_CLEAN = """\
[[ $code == 0 && $outcome == 0 ]] || on_hosts end || true
"""

TRAPS = "trap 'stopping=yes; on_hosts ask || true' INT TERM HUP"

# The code of deepspeed says nothing (0 after a killed launcher, 1 for any signal): rank 0's files do.
RESULT = """\
set -m # a process group of its own: signals reach this script alone, which asks each rank once
stopping=''
@TRAPS@
"${command[@]}"@WATCH@ &
launcher=$!
@GUARD@set +m
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do
  code=0
  wait "$launcher" || code=$?
done
trap - INT TERM HUP

# The code that a launcher ends with is no sign of success: only what rank 0 wrote in this attempt counts.
outcome=3
[[ -z $stopping ]] || outcome=130
if [[ -s $run/done.json && $(cat "$run/done.json") != "$done_before" ]]; then
  outcome=0
fi
@CLEAN@[[ $outcome != 0 ]] || exit 0
if [[ -s $run/failed.json && $(cat "$run/failed.json") != "$failed_before" ]]; then
  outcome=$(sed -n 's/^.*"code": *\\([0-9][0-9]*\\).*$/\\1/p' "$run/failed.json" | head -n 1)
fi
@AFTER@echo "@WHO@: not done (the launcher ended with $code): see failed.json and logs/ in $run" >&2
exit "${outcome:-3}"
"""
