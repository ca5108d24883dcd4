"""DeepSpeed's ZeRO 1 and 2 without the copies of gradients that nobody needs.

DeepSpeed 0.19.8 (runtime/zero/stage_1_and_2.py) copies every gradient into a bucket (line 1456) and out of it
again (2200), also where one rank alone holds the parameter and there is nothing to reduce; before a step it
flattens each group's gradients (1390) and makes the result fp32 (3118); and it keeps a second fp32 tensor of
weights that are fp32 already (line 561). Here gradients without peers stay where autograd made them, or are
added to the fp32 sum at once; the optimizer takes each gradient as it is (fused_update.py); and fp32 weights
are their own masters. Groups, partitions, reductions and gathers are DeepSpeed's.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero import stage_1_and_2
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID, DeepSpeedZeroOptimizer
from torch import Tensor, nn

from planner.memory.optimizer_state import ELEMENTS_AT_ONCE
from runtime.training.fused_update import Piece, fused_update, moments
from runtime.training.grad_norm import clip_divisor


class LeanZeroOptimizer(DeepSpeedZeroOptimizer):  # type: ignore[misc]  # DeepSpeed has no types
    """DeepSpeed's optimizer of one rank; an existing one becomes it (`make_lean`)."""

    is_alone: list[bool]  # of each group: no other rank holds its parameters
    ready_for_gradients: bool
    micro_step_id: int
    grads_in_partition: Tensor | None

    def setup_buckets(self) -> None:
        """Makes the reduction bucket, where there is anything to reduce."""
        if not all(self.is_alone):
            super().setup_buckets()
        elif not self.ready_for_gradients:
            self.micro_step_id += 1
            self.ready_for_gradients = True

    def reduce_ready_partitions_and_remove_grads(self, parameter: nn.Parameter, group: int) -> None:
        """Puts a gradient into the bucket; one without peers is not reduced."""
        if not self.is_alone[group]:
            super().reduce_ready_partitions_and_remove_grads(parameter, group)
        elif self._use_compact_grad_partition_buffer(group):
            self.add_to_partition(parameter, group)

    def add_to_partition(self, parameter: nn.Parameter, group: int) -> None:
        """Adds a gradient without peers to the group's fp32 sum, as what was reduced would be (line 1324)."""
        gradient = parameter.grad
        if gradient is None:
            return
        size = parameter.numel()
        total = self._get_compact_grad_partition_slice(group, 0, self.get_param_id(parameter), size)
        add_wide(total, gradient.reshape(-1))
        parameter.grad = None

    def reduce_ipg_grads(self, comm_dtype: torch.dtype | None = None) -> None:
        """Reduces the bucket, if there is one."""
        if not all(self.is_alone):
            super().reduce_ipg_grads(comm_dtype)

    def copy_grads_in_partition(self, parameter: nn.Parameter, group: int) -> None:
        """Moves a reduced gradient out of the bucket, to a buffer for what is reduced only."""
        if self.grads_in_partition is None and not self._use_compact_grad_partition_buffer(group):
            reduced = [
                held for held, alone in zip(self.params_in_partition, self.is_alone, strict=True) if not alone
            ]
            self.grads_in_partition = torch.empty(
                sum(each.numel() for held in reduced for each in held), dtype=self.dtype, device=self.device
            )
            self.grads_in_partition_offset = 0
        super().copy_grads_in_partition(parameter, group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One clipped update of this rank's partitions, then DeepSpeed's gather of the weights.

        Nothing is updated on any rank where the norm, which is the same on all, is not finite.
        """
        assert closure is None, "the loss is not computed again"
        self.micro_step_id = INITIAL_MICRO_STEP_ID
        norm = self.scaled_global_norm()
        self.overflow = not bool(torch.isfinite(norm))
        self._global_grad_norm = float("inf") if self.overflow else norm
        if self.overflow:
            self.zero_grad(set_to_none=True)
        divisor = None if self.overflow else clip_divisor(norm, self.clip_grad)
        for group in range(len(self.bit16_groups)):
            if not self.overflow:
                self.update_partition(group, divisor)
            self.averaged_gradients[group] = None
            self.all_grad_tensors[group] = None
        if not self.overflow:
            stage_1_and_2.all_gather_dp_groups(
                groups_flat=self.bit16_groups_flat,
                partitioned_param_groups=self.parallel_partitioned_bit16_groups,
                dp_process_group=self.real_dp_process_group,
                start_alignment_factor=self.nccl_start_alignment_factor,
                allgather_bucket_size=self.allgather_bucket_size,
            )

    def update_partition(self, group: int, divisor: Tensor | None) -> None:
        """Updates masters, moments and weights of this rank's part of a group.

        Args:
            divisor: of the gradients.
        """
        fused_update(self._pieces(group), self.optimizer.param_groups[group], divisor)

    def gradients_of(self, group: int) -> Iterator[tuple[int, Tensor]]:
        """Where it begins in this rank's partition of a group, and the flat gradient, of each part."""
        start = 0
        for gradient in self.averaged_gradients[group]:
            yield start, gradient.reshape(-1)
            start += gradient.numel()
        assert start == self.partition_size[group], f"group {group}: {start} of {self.partition_size[group]}"

    def _pieces(self, group: int) -> Iterator[Piece]:
        master = self.single_partition_of_fp32_groups[group]
        state = moments(self.optimizer, master)
        state["step"] += 1
        weights = self.parallel_partitioned_bit16_groups[group][self._place(group)]
        for start, gradient in self.gradients_of(group):
            here = slice(start, start + len(gradient))
            yield Piece(
                master=master.detach()[here],
                gradient=gradient,
                average=state["exp_avg"][here],
                square=state["exp_avg_sq"][here],
                steps=state["step"],
                rounded=None if self.dtype == torch.float32 else weights[here],
            )

    def _place(self, group: int) -> int:
        """This rank's place among those that share a group."""
        return int(dist.get_rank(group=self.real_dp_process_group[group]))

    def _share_masters(self) -> None:
        """fp32 weights are the masters: what updates these needs no copy, and there is none to hold."""
        for group, master in enumerate(self.single_partition_of_fp32_groups):
            master.data = self.parallel_partitioned_bit16_groups[group][self._place(group)].data
        for parameters in self.bit16_groups:
            for parameter in parameters:
                parameter._hp_mapping = None  # views of the masters before, for checkpoints of DeepSpeed's


def make_lean(optimizer: DeepSpeedZeroOptimizer) -> None:
    """Gives DeepSpeed's optimizer, before its first step, this class."""
    assert type(optimizer) is DeepSpeedZeroOptimizer, type(optimizer)
    optimizer.__class__ = LeanZeroOptimizer
    optimizer.is_alone = [dist.get_world_size(group) == 1 for group in optimizer.real_dp_process_group]
    if optimizer.dtype == torch.float32:
        optimizer._share_masters()


def add_wide(total: Tensor, values: Tensor) -> None:
    """Adds flat values of a narrower dtype to an fp32 tensor. torch's `add_` would make all of them fp32
    first, in fresh memory."""
    for part, more in zip(total.split(ELEMENTS_AT_ONCE), values.split(ELEMENTS_AT_ONCE), strict=True):
        part.add_(more.to(part.dtype))
