"""launch.sbatch: the plan as a Slurm batch job, on the hosts that Slurm allocates."""

import re
from collections.abc import Iterator

from launch.scripts.template import LaunchPaths, common_conditions, common_values, fill
from planner import Plan, Problem

# Seconds before the time limit at which ranks are signalled to save; launch.slurm.signal overrides it.
LEAD_S = 300
_VALUE = re.compile(r"[A-Za-z0-9_.,:;@/+=%*()\[\]&|! -]*")
# Options that follow from the plan.
_FROM_PLAN = ("nodes", "ntasks", "ntasks-per-node", "distribution", "nodelist", "wrap", "array")


def launch_sbatch(plan: Plan, paths: LaunchPaths) -> str:
    """The script; hosts come from the allocation, ranks for each host from the hostfile."""
    values = {"SBATCH_OPTIONS": "\n#SBATCH ".join(_options(plan)), "LOOK": "logs/"}
    return fill("launch.sbatch.in", common_conditions(paths), common_values(plan, paths) | values)


def slurm_problems(plan: Plan) -> Iterator[Problem]:
    """Options that Slurm would reject or split, and those that follow from the plan."""
    for key, value in plan.strategy.launch.slurm.items():
        path = f"launch.slurm.{key}"
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key):
            yield Problem(
                code="SW415",
                path=path,
                found=f"{key!r} is not a valid option name",
                expected="the long name of an sbatch option, without --",
                fix=f"write {key.lower().replace('_', '-')}",
            )
        elif key in _FROM_PLAN:
            yield Problem(
                code="SW416",
                path=path,
                found=f"{key} follows from the plan",
                expected="any other sbatch option",
                fix=f"remove {key}",
            )
        elif isinstance(value, str) and not _VALUE.fullmatch(value):
            yield Problem(
                code="SW417",
                path=path,
                found=f"characters in {value!r} that sbatch or the shell would interpret",
                expected="one line without quotes, backslashes, $, # and similar characters",
                fix=f"write {key} without them",
            )


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
