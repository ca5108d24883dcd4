"""Identity of a process among the ranks: rank, local rank, world size, rendezvous, from its launcher."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.problems import Problem, StrategyError
from planner.units import shorten
from runtime.process.launchers import (
    TORCH_VARIABLES,
    UNSUPPORTED,
    VARIABLES,
    Launcher,
    find_launcher,
    is_on_one_host,
)
from runtime.process.rendezvous import find_rendezvous

_MAX_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One process as its launcher started it.

    host: its name. is_on_one_host: whether all processes were started on it, as far as the launcher says.
    master_addr, master_port: where rank 0's store is.
    """

    rank: int
    local_rank: int
    world_size: int
    host: str
    launcher: Launcher
    is_on_one_host: bool = False
    master_addr: str = ""
    master_port: int = 0

    @property
    def is_launched(self) -> bool:
        """False for a bare `python train.py`."""
        return self.launcher is not Launcher.NONE

    def __str__(self) -> str:
        return f"rank {self.rank}/{self.world_size} {self.host}"


class LauncherError(StrategyError):
    """The launcher's variables are wrong. `is_first`: no lower rank sees the same, so this one reports it."""

    def __init__(self, problem: Problem, *, is_first: bool) -> None:
        super().__init__([problem])
        self.is_first = is_first


def identify(environment: Mapping[str, str] = os.environ, *, how: str) -> Identity:
    """Reads what the launcher has set.

    Args:
        how: how the program is started, for the message.

    Raises:
        LauncherError: if it is not integers, incomplete or contradictory, or says nothing of rank 0's host.
    """
    launcher = find_launcher(environment)
    host = socket.gethostname()
    if launcher is Launcher.NONE:
        _refuse_unsupported(environment)
        return Identity(rank=0, local_rank=0, world_size=1, host=host, launcher=launcher, is_on_one_host=True)
    names = VARIABLES[launcher]
    required = names[:2] if launcher is Launcher.BY_HAND else names
    bad = [
        f"{name}={shorten(environment[name])}" for name in names if not _is_number(environment.get(name, "0"))
    ]
    missing = [f"{name} is not set" for name in required if not environment.get(name)]
    if bad or missing:
        raise LauncherError(_wrong_variables(", ".join(bad + missing), names, how), is_first=True)
    rank, world_size = int(environment[names[0]]), int(environment[names[1]])
    local_rank = int(environment.get(names[2]) or rank)
    if rank >= world_size:
        found = f"{names[0]}={rank}, {names[1]}={world_size}"
        raise LauncherError(_wrong_variables(found, names, how), is_first=True)
    if names != TORCH_VARIABLES:
        _compare(environment, names)
    try:
        address, port = find_rendezvous(launcher, environment)
    except StrategyError as error:
        raise LauncherError(error.problems[0], is_first=rank == 0) from None
    return Identity(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        host=host,
        launcher=launcher,
        is_on_one_host=is_on_one_host(launcher, environment),
        master_addr=address,
        master_port=port,
    )


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _compare(environment: Mapping[str, str], names: Sequence[str]) -> None:
    """RANK and the like, left over or set by a wrapper, must agree with what the launcher has set."""
    differing = [
        (written, name)
        for written, name in zip(TORCH_VARIABLES, names, strict=True)
        if environment.get(written) and environment[written] != environment[name]
    ]
    if not differing:
        return
    # Variables left over are the same on all ranks: RANK=0 everywhere contradicts from rank 1 on.
    lowest = int(all(environment[written] == "0" for written, _ in differing))
    found = ", ".join(
        f"{written}={environment[written]} but {name}={environment[name]}" for written, name in differing
    )
    raise LauncherError(
        Problem(
            code="SW601",
            found=f"incomplete or contradictory launcher environment: {found}",
            expected=f"{' '.join(TORCH_VARIABLES)} not set, or equal to {' '.join(names)}",
            fix=f"unset {' '.join(written for written, _ in differing)} before you start it",
        ),
        is_first=int(environment[names[0]]) == lowest,
    )


def _refuse_unsupported(environment: Mapping[str, str]) -> None:
    """Each of these processes would otherwise be a rank 0 of its own."""
    for name, what in UNSUPPORTED.items():
        if environment.get(name):
            problem = Problem(
                code="SW605",
                found=f"{name}={environment[name]}: started by {what}, which is not supported",
                expected="deepspeed, torchrun, srun, Open MPI's mpirun, or RANK, WORLD_SIZE and LOCAL_RANK",
                fix="use one of these, or have a wrapper export RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR "
                "and MASTER_PORT before it starts python",
            )
            raise LauncherError(problem, is_first=environment[name] == "0")


def _wrong_variables(found: str, names: Sequence[str], how: str) -> Problem:
    rank, world_size = names[:2]
    return Problem(
        code="SW601",
        found=f"incomplete or contradictory launcher environment: {found}",
        expected=f"{rank} and {world_size} set to integers, 0 <= {rank} < {world_size}, or neither set",
        fix=how,
    )
