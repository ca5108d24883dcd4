"""How launch.sh starts the ranks: on this host, or over ssh on many."""

CPU_DEVICES = """\
unset CUDA_VISIBLE_DEVICES # DeepSpeed would take it for a list of this machine's slots
"""

GPU_DEVICES = """\
# DeepSpeed ignores it beside --num_gpus and takes the first GPUs, which may be someone else's.
case ${CUDA_VISIBLE_DEVICES:-} in
  '' | @LAST@) unset CUDA_VISIBLE_DEVICES ;;
  *) refuse "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES, but DeepSpeed would take GPUs @LAST@: unset it" ;;
esac
"""

# What runs through a link of its own to the interpreter is this attempt, and nothing else on a host.
_LINK = """\
job=$(date +%Y%m%d-%H%M%S)-${HOSTNAME//[^A-Za-z0-9.-]/_}-$$
link=$run/logs/job-$job/bin/python-$job
trap '"$python" -m launch.job remove "$link" || true' EXIT
trap 'exit 130' INT TERM HUP # until there is something to ask
"$python" -m launch.job make "$link" ||
  refuse "$run/logs takes no link, or $python -m launch.job does not run here (see above)"
"""

LOCAL_START = (
    """\
@DEVICES@# DeepSpeed reads an environment file on many hosts only. They are not this script's own variables.
mapfile -t variables <"$run/env"

# shellcheck disable=SC2317 # called by the traps
on_hosts() {
  "$python" -m launch.job "$1" "$link"
}

"""
    + _LINK
    + """
# No file is called /dev/null/hostfile: without the flag DeepSpeed reads /job/hostfile where there is one.
command=(env "${variables[@]}" "$link" -m deepspeed.launcher.runner --hostfile /dev/null/hostfile
  --num_gpus @WORLD@ --master_port "$port" --no_local_rank --quiet @PROGRAM@ --strategy "$run/strategy.yaml")
"""
)

SSH_CONFIG = """\
ssh_config=@SSH_CONFIG_FILE@
[[ -r $ssh_config ]] || refuse "the ssh configuration $ssh_config cannot be read"
ssh_options+=(-F "$ssh_config")
"""

REMOTE_START = (
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
hosts=$(sed -n 's/^\\([^# ][^ ]*\\) slots=.*/\\1/p' "$run/hostfile" | paste -s -d , -)
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
ready="for _ in 1 2 3 4; do
  [ -r '$project/train.py' ] && [ -x '$link' ] && exit 0
  sleep 1
done
echo 'it does not see $project/train.py and $link: they must be at the same shared paths on all hosts'
exit 1"
pdsh -S -f @FAN_OUT@ -w "$hosts" "$ready" >&2 ||
  refuse 'not every host is ready (see above); nothing was started'

# DeepSpeed's own check of ssh knows nothing of the options above.
command=("$link" -m deepspeed.launcher.runner --hostfile "$run/hostfile" --force_multi --no_ssh_check
  --master_addr "$master" --master_port "$port" --no_local_rank --enable_each_rank_log "$run/logs"
  @PROGRAM@ --strategy "$run/strategy.yaml")
echo "launch.sh: @RANKS@; rank 0 tells the story in $run/logs/*_rank0.log"
"""
)
