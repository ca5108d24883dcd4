"""Environment of a launch: the variables that every rank gets, and values that would not arrive unaltered."""

import math
import re
from collections.abc import Iterator, Mapping

from planner import Plan, Problem
from planner.plan.deterministic import deterministic_environment
from planner.plan.mismatch import VARIABLE
from planner.plan.operator_env import (
    GROUP_VARIABLES,
    MEMORY_VARIABLES,
    OperatorEnvironment,
    format_ranks,
    list_group_ranks,
    read_environment,
)

OPERATOR_VARIABLES = (*GROUP_VARIABLES, *MEMORY_VARIABLES)
# Set by launchers and by the plan itself: another value would be overwritten, or contradict the plan.
RESERVED = frozenset(
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_SIZE CROSS_RANK CROSS_SIZE MASTER_ADDR MASTER_PORT "
    "PET_NNODES PET_NPROC_PER_NODE PET_NODE_RANK PET_MASTER_ADDR PET_MASTER_PORT "  # of torchrun
    f"CUDA_VISIBLE_DEVICES DS_ACCELERATOR DS_ENV_FILE SWITCHYARD_LAUNCH SWITCHYARD_SECRET {VARIABLE}".split()
)
# DeepSpeed 0.19.8 puts a value with special characters into double quotes (launcher/multinode_runner.py:40),
# in which a shell still interprets these; pdsh expands %h, %n and %u.
_ALTERED = re.compile(r'[$`"\\%]')
_INTERFACES = re.compile(r"[A-Za-z0-9_.:@-]+(,[A-Za-z0-9_.:@-]+)*")


def operator_environment(plan: Plan, environ: Mapping[str, str]) -> OperatorEnvironment:
    """The operator's variables that take effect: `environ` wins over launch.environment.

    Raises:
        StrategyError: a malformed value, or ranks that differ from the plan's.
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
    values |= {name: format_ranks(ranks) for name, ranks in list_group_ranks(plan).items()}
    values["MAX_MEMORY_PER_GPU"] = str(operator.memory_limit_bytes)
    values["MEMORY_FRACTION"] = _fraction(operator.memory_limit_bytes, gpu.memory)
    values |= deterministic_environment(plan.strategy)
    return values | dict(sorted(launch.environment.items())) | operator.values


def env_file(values: Mapping[str, str]) -> str:
    """KEY=VALUE lines only: DeepSpeed's reader knows no comments, and a blank line breaks it."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


def variable_problems(plan: Plan, values: Mapping[str, str], *, over_ssh: bool) -> Iterator[Problem]:
    """Variables that a strategy may not set, and values that would not arrive unaltered.

    Args:
        over_ssh: whether DeepSpeed passes variables through remote shells, rather than exporting them here.
    """
    launch = plan.strategy.launch
    for name in launch.environment:
        if name in RESERVED:
            yield Problem(
                code="SW410",
                path=f"launch.environment.{name}",
                found=f"{name} is set by the launch itself",
                expected="any other variable",
                fix=f"remove {name}",
            )
    interface = launch.network_interface
    if interface is not None and not _INTERFACES.fullmatch(interface):
        yield Problem(
            code="SW411",
            path="launch.network_interface",
            found=f"invalid network interface name {interface!r}",
            expected="a name as `ip link` prints it, or several separated by commas",
            fix="write the name, for example eth0",
        )
        return
    for name, value in values.items() if over_ssh else ():
        found = _ALTERED.search(value)
        if found or value != value.strip():
            what = f"the character {found.group()}" if found else "leading or trailing spaces"
            yield Problem(
                code="SW412",
                path=f"launch.environment.{name}",
                found=f"remote shells would alter {value!r} ({what})",
                expected='a value without $, `, ", \\ and %, and without leading or trailing spaces',
                fix=f"set {name} to a value without it",
            )


def _fraction(part: int, total: int) -> str:
    """part / total rounded up, in the form that `read_environment` reads."""
    fraction = min(1.0, math.ceil(part / total * 10**12) / 10**12)
    return f"{fraction:.12f}".rstrip("0").rstrip(".")
