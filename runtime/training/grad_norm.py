"""Exact global gradient norm: one definition for every ZeRO stage and layout.

‖g‖² sums the squared elements of the complete model's gradient, each counted once. A rank adds the squares
of what it holds, divided by the number of ranks that hold the same; then one all-reduce over the world.
DeepSpeed 0.19.8 averages per-rank norms at ZeRO 0 (runtime/utils.py:413) and, under tensor parallelism,
counts experts on the first TP rank only (zero/stage_1_and_2.py:2682).

torch 2.13's fp32 `vector_norm` adds one square after another on a CPU: off by 9e-6 at 1 M elements, 4e-4 at
10 M, 1e-2 at 100 M (normal values), and differently for each cut of a tensor. So rows of 1,024 elements are
summed in fp32, and the rows in fp64: 2e-9, in the same time.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from planner.memory.optimizer_state import ELEMENTS_AT_ONCE
from runtime.parallel.groups import RankGroups

_ROW = 1024  # elements whose squares are summed in fp32


def is_expert(parameter: Tensor) -> bool:
    """Whether its gradient is reduced over `edp`, not over `data`."""
    return not getattr(parameter, "allreduce", True)


def is_split_over_tp(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))


def replicas(parameter: Tensor, groups: RankGroups, *, partitioned: bool) -> int:
    """The number of ranks of the stage that hold the same gradient element.

    Args:
        partitioned: as under ZeRO 1 and 2, where each data-parallel rank has only its own part.
    """
    if is_expert(parameter):
        return 1 if partitioned else groups.edp.size
    copies = 1 if is_split_over_tp(parameter) else groups.tp.size
    return copies if partitioned else copies * groups.data.size


def global_norm(held: Iterable[tuple[Tensor, int]], device: torch.device) -> Tensor:
    """‖g‖ of the complete model as an fp32 scalar, equal on every rank; not finite if any element is not.

    Args:
        held: (gradient or a part of it, number of ranks that hold the same), of this rank.
    """
    square = torch.zeros((), dtype=torch.float64, device=device)
    for gradient, copies in held:
        square += sum_of_squares(gradient) / copies
    dist.all_reduce(square)
    return square.sqrt().float()


def sum_of_squares(tensor: Tensor) -> Tensor:
    """Σ x² of all elements as an fp64 scalar, within 1e-7."""
    total = torch.zeros((), dtype=torch.float64, device=tensor.device)
    wide: Tensor | None = None
    for chunk in tensor.reshape(-1).split(ELEMENTS_AT_ONCE):
        values = chunk
        if chunk.dtype != torch.float32:
            if wide is None:
                wide = torch.empty_like(chunk, dtype=torch.float32)
            values = wide[: len(chunk)].copy_(chunk)
        even = len(values) // _ROW * _ROW
        norms = torch.linalg.vector_norm(values[:even].view(-1, _ROW), dim=1).double()
        total += torch.dot(norms, norms) + torch.linalg.vector_norm(values[even:]).double().square()
    return total


def clip_divisor(norm: Tensor, limit: float) -> Tensor | None:
    """What divides the gradients: (norm + 1e-6) / limit; None if that is at most 1, or `limit` is 0 (off)."""
    if limit == 0.0:
        return None
    divisor = (norm + 1e-6) / limit
    return divisor if float(divisor) > 1.0 else None
