#!/usr/bin/env bash
# Starts ep64_tp2_staged: 68 ranks on 9 hosts.
# plan 0000PLAN0000. Made by `python -m launch generate`: generate again rather than edit.
# Usage: launch.sh [PORT]. Ends 0 done, 2 wrong input, 3 something broke, 130 stopped on request.
set -euo pipefail

project=/srv/switchyard
run=/srv/switchyard/runs/ep64_tp2_staged
python=/srv/venv/bin/python
plan=0000PLAN0000

refuse() {
  printf 'launch.sh: %s\n' "$*" >&2
  exit 2
}

# A fresh port each time: the sockets of the last attempt may still be closing.
port=${1:-$((20000 + RANDOM % 12000))}
[[ $# -le 1 && $port =~ ^[0-9]+$ ]] || refuse 'usage: launch.sh [PORT]'

cd "$project"
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
mkdir -p "$run/logs"

command -v pdsh >/dev/null || refuse 'DeepSpeed starts other hosts with pdsh, which is not installed here'
# Never a prompt, and an end where a host is cut off: without keep-alives pdsh would wait for ever.
ssh_options=(-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=6)
ssh_config=/srv/switchyard/cluster.ssh
[[ -r $ssh_config ]] || refuse "the ssh configuration $ssh_config cannot be read"
ssh_options+=(-F "$ssh_config")
export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} ${ssh_options[*]}"
export DS_ENV_FILE="$run/env"
# Rank 0 is on the first host; where that is an alias of ssh's, this is what it stands for.
# LAUNCH_MASTER_ADDR names another address of that host.
master=${LAUNCH_MASTER_ADDR:-$(ssh "${ssh_options[@]}" -G node0 | sed -n 's/^hostname //p')} ||
  refuse "ssh cannot read its configuration"

# DeepSpeed's runner passes it on to the launcher of every host.
# shellcheck disable=SC2317 # the trap calls it
ask_to_stop() {
  kill -TERM "$launcher" 2>/dev/null || true
}

# DeepSpeed's own check of ssh knows nothing of the options above.
command=("$python" -m deepspeed.launcher.runner --hostfile "$run/hostfile" --force_multi --no_ssh_check
  --master_addr "$master" --master_port "$port" --no_local_rank --enable_each_rank_log "$run/logs"
  train.py --strategy "$run/strategy.yaml")
echo "launch.sh: 68 ranks on 9 hosts; rank 0 tells the story in $run/logs/*_rank0.log"

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
  outcome=$(sed -n 's/^.*"code": *\([0-9][0-9]*\).*$/\1/p' "$run/failed.json" | head -n 1)
fi
echo "launch.sh: not done (the launcher ended with $code): see failed.json and logs/ in $run" >&2
exit "${outcome:-3}"
