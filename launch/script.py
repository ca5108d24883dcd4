"""launch.sh: the script that starts a plan's ranks with DeepSpeed and says whether the run is done."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from launch.envfile import OPERATOR_VARIABLES
from launch.hostfile import is_local, made_up
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
    result = RESULT.replace("@WHO@", "launch.sh").replace("@AFTER@", "")
    is_cpu = plan.strategy.cluster.gpu.is_cpu
    text = "\n".join((_OPENING, CHECKS, start, result))
    for name, fragment in {
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

_LOCAL_START = """\
@DEVICES@# DeepSpeed reads an environment file on many hosts only.
while IFS= read -r variable; do
  export "${variable?}"
done <"$run/env"

# On one host the launcher under DeepSpeed's runner takes a request to stop, and asks each rank once.
# shellcheck disable=SC2317 # the trap calls it
ask_to_stop() {
  "$python" -c 'import psutil, sys
runner = psutil.Process(int(sys.argv[1]))
for process in runner.children() or [runner]:
    process.terminate()' "$launcher" || true
}

# No file is called /dev/null/hostfile: without the flag DeepSpeed reads /job/hostfile where there is one.
command=("$python" -m deepspeed.launcher.runner --hostfile /dev/null/hostfile --num_gpus @WORLD@
  --master_port "$port" --no_local_rank --quiet @PROGRAM@ --strategy "$run/strategy.yaml")
"""

_SSH_CONFIG = """\
ssh_config=@SSH_CONFIG_FILE@
[[ -r $ssh_config ]] || refuse "the ssh configuration $ssh_config cannot be read"
ssh_options+=(-F "$ssh_config")
"""

_REMOTE_START = """\
command -v pdsh >/dev/null || refuse 'DeepSpeed starts other hosts with pdsh, which is not installed here'
# Never a prompt, and an end where a host is cut off: without keep-alives pdsh would wait for ever.
ssh_options=(@SSH_OPTIONS@)
@SSH_CONFIG@export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} ${ssh_options[*]}"
export DS_ENV_FILE="$run/env"
@ACCELERATOR@# Rank 0 is on the first host; where that is an alias of ssh's, this is what it stands for.
# LAUNCH_MASTER_ADDR names another address of that host.
master=${LAUNCH_MASTER_ADDR:-$(ssh "${ssh_options[@]}" -G @FIRST@ | sed -n 's/^hostname //p')} ||
  refuse "ssh cannot read its configuration"

# DeepSpeed's runner passes it on to the launcher of every host.
# shellcheck disable=SC2317 # the trap calls it
ask_to_stop() {
  kill -TERM "$launcher" 2>/dev/null || true
}

# DeepSpeed's own check of ssh knows nothing of the options above.
command=("$python" -m deepspeed.launcher.runner --hostfile "$run/hostfile" --force_multi --no_ssh_check
  --master_addr "$master" --master_port "$port" --no_local_rank --enable_each_rank_log "$run/logs"
  @PROGRAM@ --strategy "$run/strategy.yaml")
echo "launch.sh: @RANKS@; rank 0 tells the story in $run/logs/*_rank0.log"
"""

# The code of deepspeed says nothing (0 after a killed launcher, 1 for any signal): rank 0's files do.
RESULT = """\
set -m # a process group of its own: signals reach this script alone, which asks each rank once
stopping=''
trap 'stopping=yes; ask_to_stop' INT TERM HUP
"${command[@]}" &
launcher=$!
set +m
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do
  code=0
  wait "$launcher" || code=$?
done
trap - INT TERM HUP

# The code that a launcher ends with is no sign of success: only what rank 0 wrote in this attempt counts.
if [[ -s $run/done.json && $(cat "$run/done.json") != "$done_before" ]]; then
  exit 0
fi
outcome=3
[[ -z $stopping ]] || outcome=130
if [[ -s $run/failed.json && $(cat "$run/failed.json") != "$failed_before" ]]; then
  outcome=$(sed -n 's/^.*"code": *\\([0-9][0-9]*\\).*$/\\1/p' "$run/failed.json" | head -n 1)
fi
@AFTER@echo "@WHO@: not done (the launcher ended with $code): see failed.json and logs/ in $run" >&2
exit "${outcome:-3}"
"""
