"""launch.sbatch: the plan as a Slurm batch job, on the hosts that Slurm allocates."""

import re
import shlex
from collections.abc import Iterator, Mapping

from launch.scripts.site import (
    container_problems,
    container_values,
    rank_python,
    site_conditions,
    site_values,
)
from launch.scripts.slurm_time import Lead, signal_lead, time_problems
from launch.scripts.template import LaunchPaths, common_conditions, common_values, fill
from planner import Plan, Problem

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_VALUE = re.compile(r"[A-Za-z0-9_.,:;@/+=%*()\[\]&|! -]*")
# Options that follow from the plan.
_FROM_PLAN = {
    "slurm": ("nodes", "ntasks", "ntasks-per-node", "distribution", "nodelist", "wrap", "array"),
    "srun": ("nodes", "ntasks", "ntasks-per-node", "distribution", "nodelist", "export", "multi-prog", "pty"),
}
_TRIED = ": tried with Slurm 22.05.8, several node daemons on one machine"
_Option = bool | int | float | str | None


def launch_sbatch(plan: Plan, paths: LaunchPaths, variables: tuple[str, ...]) -> str:
    """The script; hosts come from the allocation, ranks for each host from the hostfile."""
    conditions = common_conditions(paths) | site_conditions(plan)
    conditions |= {"srun_options"} if plan.strategy.launch.srun else set()
    conditions |= {"step_options"} if conditions & {"srun_options", "container"} else set()
    tried = _TRIED + (", without a container" if "container" in conditions else "")
    lead = signal_lead(plan)
    values = {
        "SBATCH_OPTIONS": "\n#SBATCH ".join(_sbatch_options(plan, lead)),
        "SRUN_OPTIONS": shlex.join(_written(dict(sorted(plan.strategy.launch.srun.items())))),
        "LEAD": lead.how,
        "TRIED": tried,
        "LOOK": "$run/logs/",
        "PYTHON": shlex.quote(rank_python(plan, paths)),
    }
    site = site_values(plan) | container_values(plan, paths, variables)
    return fill("launch.sbatch.in", conditions, common_values(plan, paths) | site | values)


def slurm_problems(plan: Plan, paths: LaunchPaths) -> Iterator[Problem]:
    """Options that Slurm would reject or split, and those that follow from the plan; times; mounts."""
    launch = plan.strategy.launch
    yield from _option_problems("slurm", launch.slurm)
    yield from _option_problems("srun", launch.srun)
    yield from time_problems(plan)
    yield from container_problems(plan, paths)


def _option_problems(key: str, options: Mapping[str, _Option]) -> Iterator[Problem]:
    program = "sbatch" if key == "slurm" else "srun"
    for name, value in options.items():
        path = f"launch.{key}.{name}"
        if not _NAME.fullmatch(name):
            yield Problem(
                code="SW415",
                path=path,
                found=f"{name!r} is not a valid option name",
                expected=f"the long name of an option of {program}, without --",
                fix=f"write {name.lstrip('-').lower().replace('_', '-')}",
            )
        elif name in _FROM_PLAN[key]:
            yield Problem(
                code="SW416",
                path=path,
                found=f"{name} follows from the plan",
                expected=f"any other option of {program}",
                fix=f"remove {name}",
            )
        elif key == "slurm" and isinstance(value, str) and not _VALUE.fullmatch(value):
            yield Problem(
                code="SW417",
                path=path,
                found=f"characters in {value!r} that sbatch or the shell would interpret",
                expected="one line without quotes, backslashes, $, # and similar characters",
                fix=f"write {name} without them",
            )


def _sbatch_options(plan: Plan, lead: Lead) -> Iterator[str]:
    slots = len(plan.hosts[0].ranks)
    options: dict[str, _Option] = {
        "job-name": plan.strategy.name,
        "nodes": len(plan.hosts),
        "ntasks-per-node": slots,
        "signal": f"B:USR1@{lead.seconds}",
        "open-mode": "append",
        "requeue": True,
    }
    if not plan.strategy.cluster.gpu.is_cpu:
        options["gpus-per-node"] = slots
    for option in _written(options | dict(sorted(plan.strategy.launch.slurm.items()))):
        name, _, value = option.partition("=")
        yield f'{name}="{value}"' if " " in value else option


def _written(options: Mapping[str, _Option]) -> Iterator[str]:
    for name, value in options.items():
        if value is True:
            yield f"--{name}"
        elif value is not None and value is not False:
            yield f"--{name}={value}"
