#!/usr/bin/env bash
# Starts tiny_cpu: 4 ranks on 1 host.
# plan 0000PLAN0000. Made by `python -m launch generate`: generate again rather than edit.
# Usage: launch.sh [PORT]. Ends 0 done, 2 wrong input, 3 something broke, 130 stopped on request.
set -euo pipefail

project=/srv/switchyard
run=/srv/switchyard/runs/tiny_cpu
python=/srv/venv/bin/python
plan=0000PLAN0000

refuse() {
  printf 'launch.sh: %s\n' "$*" >&2
  exit 2
}

# A fresh port each time: the sockets of the last attempt may still be closing.
port=${1:-$((20000 + RANDOM % 12000))}
[[ $# -le 1 && $port =~ ^[0-9]{1,5}$ ]] || refuse 'usage: launch.sh [PORT]'
((10#$port >= 1 && 10#$port <= 65535)) || refuse "the port $port is none: 1 to 65535"

cd "$project" || refuse "the project's folder is not there: generate again where it is now"
command -v "$python" >/dev/null || refuse "there is no $python here"
# Files of two plans side by side (a half-finished generate, a run started by hand) must not be launched.
for file in strategy.yaml plan.json ds_config.json hostfile env; do
  grep -qsF "$plan" "$run/$file" || refuse "$run/$file is not of plan $plan: generate again"
done
# What an operator exports must reach every rank, so it must be in the file that does.
for name in EMBEDDING_GPUS EXPERT_GPUS AGGREGATION_GPUS MAX_MEMORY_PER_GPU MEMORY_FRACTION; do
  if [[ -n ${!name:-} ]] && ! grep -qxF "$name=${!name}" "$run/env"; then
    refuse "$name=${!name} is not what $run/env says: generate again with it set, or unset it"
  fi
done
done_before=$(cat "$run/done.json" 2>/dev/null || true)
failed_before=$(cat "$run/failed.json" 2>/dev/null || true)
# Made here: the hosts would race for it.
mkdir -p "$run/logs" || refuse "the run's folder $run cannot be written"

unset CUDA_VISIBLE_DEVICES # DeepSpeed would take it for a list of this machine's slots
# DeepSpeed reads an environment file on many hosts only. They are not this script's own variables.
mapfile -t variables <"$run/env"

# shellcheck disable=SC2317 # called by the traps
on_hosts() {
  "$python" -m launch.job "$1" "$link"
}

job=$(date +%Y%m%d-%H%M%S)-${HOSTNAME//[^A-Za-z0-9.-]/_}-$$
link=$run/logs/job-$job/bin/python-$job
trap '"$python" -m launch.job remove "$link" || true' EXIT
trap 'exit 130' INT TERM HUP # until there is something to ask
"$python" -m launch.job make "$link" ||
  refuse "$run/logs takes no link, or $python -m launch.job does not run here (see above)"

# No file is called /dev/null/hostfile: without the flag DeepSpeed reads /job/hostfile where there is one.
command=(env "${variables[@]}" "$link" -m deepspeed.launcher.runner --hostfile /dev/null/hostfile
  --num_gpus 4 --master_port "$port" --no_local_rank --quiet train.py --strategy "$run/strategy.yaml")

# Ends the attempt when this script is killed, or when one host has been out of it for 30 s.
guard() {
  local out=0 parent=$$
  trap '' INT TERM HUP
  while kill -0 "$launcher" 2>/dev/null; do
    sleep 1
    [[ ! -e ${link%/*}/host-ended ]] || out=$((out + 1))
    # A killed process that nobody has waited for is still there, but is no parent any more.
    [[ ! -r /proc/$BASHPID/stat ]] || read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
    if [[ $parent != "$$" ]] || ((out > 30)); then
      : >"${link%/*}/guarded"
      on_hosts end || true
      kill -KILL "$launcher" 2>/dev/null || true
      [[ $parent == "$$" ]] || "$python" -m launch.job remove "$link"
      return
    fi
  done
}

set -m # a process group of its own: signals reach this script alone, which asks each rank once
stopping=''
trap 'stopping=yes; on_hosts ask || true' INT TERM HUP
"${command[@]}" &
launcher=$!
guard &
guard=$!
disown "$guard"
set +m
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do
  code=0
  wait "$launcher" || code=$?
done
trap - INT TERM HUP
kill -KILL -- "-$guard" 2>/dev/null || true

# The code that a launcher ends with is no sign of success: only what rank 0 wrote in this attempt counts.
outcome=3
[[ -z $stopping ]] || outcome=130
if [[ -s $run/done.json && $(cat "$run/done.json") != "$done_before" ]]; then
  outcome=0
elif [[ -s $run/failed.json && $(cat "$run/failed.json") != "$failed_before" ]]; then
  outcome=$(sed -n 's/^.*"code": *\([0-9][0-9]*\).*$/\1/p' "$run/failed.json" | head -n 1)
fi
# A rank that the guard asked to end says that it was asked to, which nobody did.
[[ -n $stopping || ! -e ${link%/*}/guarded || $outcome == 0 ]] || outcome=3
# So does one whose peer was killed or whose connection was lost.
[[ -n $stopping || $outcome != 130 || $code == 130 || $code == 1 ]] || outcome=3
[[ $code == 0 && $outcome == 0 ]] || on_hosts end || true
[[ $outcome != 0 ]] || exit 0
echo "launch.sh: not done (the launcher ended with $code): see failed.json in $run and what the ranks said above" >&2
exit "${outcome:-3}"
