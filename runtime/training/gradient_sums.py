"""Local fp32 sums of gradients over micro-batches, reduced over ranks once a step (runtime.reduce once).

DeepSpeed 0.19.8 under ZeRO 2 reduces after every micro-batch. Its own way around that sums in the weights'
dtype (engine.py:3239 coalesce_grad_reduction); no_sync asserts there (engine.py:3219). Here its hook on a new
gradient (stage_1_and_2.py:2284 process_gradients) adds it to an fp32 sum, until the last micro-batch: then
DeepSpeed reduces the sum, rounded to the dtype of the wire. fp32 gradients are summed in place. Gradients
without peers are added to what the optimizer will take, in fp32 to the end (lean_zero.py).
"""

from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn

from runtime.training.lean_zero import add_wide


class GradientSums:
    """Takes the place of the engine's reductions after all micro-batches but the last."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._reduce_parameter = engine.optimizer.process_gradients
        self._reduce_rest = engine.allreduce_gradients
        self._sums: dict[nn.Parameter, Tensor] = {}
        engine.optimizer.process_gradients = self._process
        engine.allreduce_gradients = self._finish

    def _process(self, parameter: nn.Parameter, group: int) -> None:
        """The hook of a gradient that was just made, into `parameter.grad`."""
        gradient = parameter.grad
        is_last = self._engine.is_gradient_accumulation_boundary()
        if gradient is not None and gradient.dtype != torch.float32:
            if self._engine.optimizer.is_alone[group]:
                self._engine.optimizer.add_to_partition(parameter, group)
                return
            total = self._sums.pop(parameter, None)
            if total is None:
                total = gradient.float()
            else:
                add_wide(total.view(-1), gradient.reshape(-1))
            if is_last:
                gradient.copy_(total)
            else:
                self._sums[parameter] = total
                parameter.grad = None
        if is_last:
            self._reduce_parameter(parameter, group)

    def _finish(self, *arguments: Any, **options: Any) -> None:
        """After a backward pass: reduces what is left in the bucket, if it was the last."""
        if not self._engine.is_gradient_accumulation_boundary():
            return
        assert not self._sums, "a parameter without a gradient in the last micro-batch"
        self._reduce_rest(*arguments, **options)
