"""Rank, local rank and world size of this process, as its launcher set them."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from planner.problems import Problem, StrategyError


@dataclass(frozen=True, kw_only=True)
class Identity:
    """`is_launched` is False for a bare `python train.py`."""

    rank: int
    local_rank: int
    world_size: int
    host: str
    is_launched: bool

    def __str__(self) -> str:
        return f"rank {self.rank}/{self.world_size} {self.host}"


def identify(environment: Mapping[str, str] = os.environ, *, how: str) -> Identity:
    """Reads RANK, LOCAL_RANK and WORLD_SIZE as deepspeed, torchrun and mpirun wrappers set them.

    Args:
        how: how the program is started, for the message.

    Raises:
        StrategyError: if they are not integers, incomplete or contradictory.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    values = {name: environment[name] for name in names if environment.get(name)}
    host = socket.gethostname()
    if "RANK" not in values and "WORLD_SIZE" not in values:
        return Identity(rank=0, local_rank=0, world_size=1, host=host, is_launched=False)
    bad = [f"{name}={value}" for name, value in values.items() if not value.isdecimal()]
    missing = [f"{name} is not set" for name in ("RANK", "WORLD_SIZE") if name not in values]
    if bad or missing:
        raise _wrong_variables(", ".join(bad + missing), how)
    rank, world_size = int(values["RANK"]), int(values["WORLD_SIZE"])
    if rank >= world_size:
        raise _wrong_variables(f"RANK={rank}, WORLD_SIZE={world_size}", how)
    local_rank = int(values.get("LOCAL_RANK", rank))
    return Identity(rank=rank, local_rank=local_rank, world_size=world_size, host=host, is_launched=True)


def _wrong_variables(found: str, how: str) -> StrategyError:
    return StrategyError(
        [
            Problem(
                code="SW601",
                found=f"incomplete or contradictory launcher environment: {found}",
                expected="RANK and WORLD_SIZE set to integers, 0 <= RANK < WORLD_SIZE, or neither set",
                fix=how,
            )
        ]
    )
