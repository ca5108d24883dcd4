"""The variables of a launch: what every rank gets, and which values would not arrive as they were written."""

import math
import re
from collections.abc import Iterator, Mapping

from planner import Plan, Problem
from planner.plan.mismatch import VARIABLE
from planner.plan.operator_env import (
    GROUP_VARIABLES,
    MEMORY_VARIABLES,
    OperatorEnvironment,
    format_ranks,
    group_ranks,
    read_environment,
)

OPERATOR_VARIABLES = (*GROUP_VARIABLES, *MEMORY_VARIABLES)
# What launchers and this plan set themselves: another value would be overwritten, or contradict the plan.
TAKEN = frozenset(
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_SIZE CROSS_RANK CROSS_SIZE MASTER_ADDR MASTER_PORT "
    f"CUDA_VISIBLE_DEVICES DS_ACCELERATOR DS_ENV_FILE {VARIABLE}".split()
)
# DeepSpeed 0.19.8 puts a value with anything unusual into double quotes (launcher/multinode_runner.py:40),
# in which a shell still reads these; pdsh reads %h, %n and %u.
_ALTERED = re.compile(r'[$`"\\%]')
_INTERFACES = re.compile(r"[A-Za-z0-9_.:@-]+(,[A-Za-z0-9_.:@-]+)*")


def operator_environment(plan: Plan, environ: Mapping[str, str]) -> OperatorEnvironment:
    """The document's variables as they bind: `environ` wins over launch.environment.

    Raises:
        StrategyError: a malformed value, or ranks that are not the plan's.
    """
    written = {name: plan.strategy.launch.environment.get(name, "") for name in OPERATOR_VARIABLES}
    own = {name: environ[name] for name in OPERATOR_VARIABLES if environ.get(name)}
    return read_environment(plan, written | own)


def variables(plan: Plan, operator: OperatorEnvironment) -> dict[str, str]:
    """Every variable of the launch, by name."""
    launch, gpu = plan.strategy.launch, plan.strategy.cluster.gpu
    values = {VARIABLE: plan.fingerprint}
    if gpu.is_cpu:
        values["DS_ACCELERATOR"] = "cpu"
    values["OMP_NUM_THREADS"] = "1"
    values["DEEPSPEED_TIMEOUT"] = str(max(1, math.ceil(launch.timeout / 60)))  # minutes
    if launch.network_interface is not None:
        values["GLOO_SOCKET_IFNAME"] = launch.network_interface
        if not gpu.is_cpu:
            values["NCCL_SOCKET_IFNAME"] = launch.network_interface
    values |= {name: format_ranks(ranks) for name, ranks in group_ranks(plan).items()}
    values["MAX_MEMORY_PER_GPU"] = str(operator.memory_limit_bytes)
    values["MEMORY_FRACTION"] = _share(operator.memory_limit_bytes, gpu.memory)
    return values | dict(sorted(launch.environment.items())) | operator.values


def env_file(values: Mapping[str, str]) -> str:
    """KEY=VALUE lines and nothing else: DeepSpeed's reader has no comments, and a blank line breaks it."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


def variable_problems(plan: Plan, values: Mapping[str, str], *, over_ssh: bool) -> Iterator[Problem]:
    """Variables that are not the strategy's to set, and values that would not arrive unaltered.

    Args:
        over_ssh: whether DeepSpeed hands the variables to remote shells; else they are exported as they are.
    """
    launch = plan.strategy.launch
    for name in launch.environment:
        if name in TAKEN:
            yield _problem(
                f"launch.environment.{name}",
                f"{name} is set by the launch itself",
                "any other variable",
                f"remove {name}",
            )
    interface = launch.network_interface
    if interface is not None and not _INTERFACES.fullmatch(interface):
        yield _problem(
            "launch.network_interface",
            f"{interface!r} is no interface's name",
            "a name as `ip link` shows it, or several with commas",
            "write the name, for example eth0",
        )
        return
    for name, value in values.items() if over_ssh else ():
        found = _ALTERED.search(value)
        if found or value != value.strip():
            what = f"the character {found.group()}" if found else "blanks at an end"
            yield _problem(
                f"launch.environment.{name}",
                f"{what} in {value!r} would not reach the other hosts as written",
                'a value without $, `, ", \\ and %, and without blanks around it',
                f"set {name} to a value without it",
            )


def _share(part: int, whole: int) -> str:
    """part / whole rounded up, in a form that `read_environment` takes."""
    share = min(1.0, math.ceil(part / whole * 10**12) / 10**12)
    return f"{share:.12f}".rstrip("0").rstrip(".")


def _problem(path: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(path=path, line=None, found=found, expected=expected, fix=fix)
