"""launch.sbatch: the same plan as a batch job of Slurm, on the hosts that Slurm gives."""

import re
from collections.abc import Iterator

from launch.scripts.launch_sh import CHECKS, Place, fill
from launch.scripts.launch_sh_end import RESULT
from planner import Plan, Problem

# Seconds before the time limit at which ranks are asked to save; longer steps need more: launch.slurm.signal.
LEAD_S = 300
_VALUE = re.compile(r"[A-Za-z0-9_.,:;@/+=%*()\[\]&|! -]*")
# What the plan decides.
_DECIDED = ("nodes", "ntasks", "ntasks-per-node", "distribution", "nodelist", "wrap", "array")


def launch_sbatch(plan: Plan, place: Place) -> str:
    """The whole script; the hosts are those of the allocation, the ranks on them those of the hostfile."""
    lines = "".join(f"#SBATCH {option}\n" for option in _options(plan))
    body = "\n".join(
        (
            _OPENING.replace("@SBATCH@", lines),
            CHECKS,
            _START,
            RESULT,
        )
    )
    for name, fragment in {
        "WHO": "launch.sbatch",
        "TRAPS": _TRAPS,
        "WATCH": "",
        "GUARD": "",
        "END_GUARD": "",
        "CLEAN": "",
        "LOOK": "logs/",
        "AFTER": _AFTER,
    }.items():
        body = body.replace(f"@{name}@", fragment)
    return fill(body, plan, place)


def slurm_problems(plan: Plan) -> Iterator[Problem]:
    """Options that Slurm would not take, or take apart, and those that the plan decides."""
    for key, value in plan.strategy.launch.slurm.items():
        path = f"launch.slurm.{key}"
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key):
            expected = "the long name of an option of sbatch, as after --"
            yield _problem(path, f"{key!r} is no option", expected, f"write {key.lower().replace('_', '-')}")
        elif key in _DECIDED:
            yield _problem(
                path, f"{key} follows from the plan", "any other option of sbatch", f"remove {key}"
            )
        elif isinstance(value, str) and not _VALUE.fullmatch(value):
            expected = "text on one line without quotes, backslashes, $, # and the like"
            yield _problem(path, f"{value!r} would be taken apart", expected, f"write {key} without them")


def _options(plan: Plan) -> Iterator[str]:
    slots = len(plan.hosts[0].ranks)
    options: dict[str, bool | int | float | str | None] = {
        "job-name": plan.strategy.name,
        "nodes": len(plan.hosts),
        "ntasks-per-node": slots,
        "signal": f"B:USR1@{LEAD_S}",
        "open-mode": "append",
        "requeue": True,
    }
    if not plan.strategy.cluster.gpu.is_cpu:
        options["gpus-per-node"] = slots
    for key, value in (options | dict(sorted(plan.strategy.launch.slurm.items()))).items():
        if value is True:
            yield f"--{key}"
        elif value is not None and value is not False:
            yield f'--{key}="{value}"' if " " in str(value) else f"--{key}={value}"


def _problem(path: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(path=path, line=None, found=found, expected=expected, fix=fix)


_OPENING = """\
#!/usr/bin/env bash
@SBATCH@@AS_IT_IS@# Starts @NAME@ under Slurm: @RANKS@.
# plan @PLAN@. Made by `python -m launch generate`: generate again rather than edit.
# Usage: sbatch launch.sbatch. Near its time limit the job saves, ends and queues again.
set -euo pipefail

project=@PROJECT@
run=@RUN@
python=@PYTHON@
plan=@PLAN@

refuse() {
  printf 'launch.sbatch: %s\\n' "$*" >&2
  exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || refuse 'this is a job of Slurm: sbatch launch.sbatch'
"""

_START = """\
# Slurm gives an uneven last host its ranks only from a list of one host a rank.
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
mapfile -t slots < <(sed -n 's/^[^#].* slots=//p' "$run/hostfile")
[[ ${#hosts[@]} -ge ${#slots[@]} ]] || refuse "the plan is on ${#slots[@]} hosts, and Slurm gave ${#hosts[@]}"
export SLURM_HOSTFILE="$run/logs/slurm-$SLURM_JOB_ID.hosts"
for i in "${!slots[@]}"; do
  for ((slot = 0; slot < slots[i]; slot++)); do
    printf '%s\\n' "${hosts[i]}"
  done
done >"$SLURM_HOSTFILE"

mapfile -t variables <"$run/env"
export MASTER_ADDR="${hosts[0]}" WORLD_SIZE=@WORLD@
export MASTER_PORT=$((20000 + (SLURM_JOB_ID + ${SLURM_RESTART_COUNT:-0}) % 12000))

# shellcheck disable=SC2317 # the trap calls it
ask_to_stop() {
  scancel --signal=USR1 "$SLURM_JOB_ID" || true # the ranks alone, not this script
}

# shellcheck disable=SC2016 # every rank expands its own numbers
command=(env "${variables[@]}" srun --ntasks=@WORLD@ --distribution=arbitrary --kill-on-bad-exit=0
  --output="${run//%/%%}/logs/slurm-$SLURM_JOB_ID-rank%t.log"
  bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' rank
  "$python" -u train.py --strategy "$run/strategy.yaml")
"""

_TRAPS = "trap 'stopping=yes; ask_to_stop' USR1"

_AFTER = """\
if [[ -n $stopping && $outcome == 130 ]]; then
  if scontrol requeue "$SLURM_JOB_ID"; then
    echo "launch.sbatch: saved near the time limit; the job queues again" >&2
    exit 0
  fi
  echo "launch.sbatch: saved near the time limit; Slurm refuses to queue it again: submit it by hand" >&2
  exit 130
fi
"""
