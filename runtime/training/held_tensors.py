"""What a rank's optimizer holds of each parameter: its most precise value and both Adam moments, in place."""

from collections.abc import Iterator

import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from runtime.training.fused_update import moments

VALUE = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")

# A parameter, the flat range of it that this rank holds (None: all), and its value and moments there.
HeldTensors = Iterator[tuple[Tensor, tuple[int, int] | None, dict[str, Tensor]]]


def held_tensors(optimizer: torch.optim.Optimizer | DeepSpeedZeroOptimizer) -> HeldTensors:
    """In a fixed order. Before the first step Adam has no moments; they are created as zeros, as in its first
    step."""
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        yield from _partitioned(optimizer)
    else:
        yield from _unpartitioned(optimizer)


def _unpartitioned(optimizer: torch.optim.Optimizer) -> HeldTensors:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = moments(optimizer, parameter)
            yield parameter, None, {VALUE: parameter.data} | {kind: state[kind] for kind in MOMENTS}


def _partitioned(optimizer: DeepSpeedZeroOptimizer) -> HeldTensors:
    """DeepSpeed 0.19.8 concatenates a group's parameters and cuts the result into equal partitions.

    Offsets: stage_1_and_2.py, round_robin_bit16_offsets (round robin itself is off in our config).
    """
    for index, parameters in enumerate(optimizer.round_robin_bit16_groups):
        master = optimizer.single_partition_of_fp32_groups[index]
        state = moments(optimizer.optimizer, master)
        tensors = {VALUE: master.data} | {kind: state[kind] for kind in MOMENTS}
        size = optimizer.partition_size[index]
        first = torch.distributed.get_rank(optimizer.real_dp_process_group[index]) * size
        for parameter, offset in zip(parameters, optimizer.round_robin_bit16_offsets[index], strict=True):
            start = max(offset, first)
            stop = min(offset + parameter.numel(), first + size)
            if start < stop:
                flat = (start - offset, stop - offset)
                yield parameter, flat, {k: t[start - first : stop - first] for k, t in tensors.items()}
