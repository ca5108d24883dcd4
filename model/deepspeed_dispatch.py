"""Dispatch through DeepSpeed's own MOELayer and TopKGate, over views of our parameters.

DeepSpeed's modules are held outside the module tree: they add no parameters, names or checkpoint entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .collectives import Group, ModelGroups, all_gather, share_of
from .experts import Experts
from .recompute import recomputed
from .router import Router, Routing

# B sequences, S tokens of each, D hidden, P ranks of the ep group, L experts of this rank, C rows an expert


class StockDispatch:
    """Dropless dispatch by DeepSpeed's MOELayer: every expert is padded to the fullest of the ep group.

    Equal to `dropless` where no token is masked and tp divides the tokens. Its all-to-all is inside
    DeepSpeed, so the clock counts it as compute.
    """

    def __init__(self, groups: ModelGroups) -> None:
        self.groups = groups
        self.recomputes_experts = False
        self.layer: Any = None

    def __call__(
        self, x_BSD: Tensor, mask_BS: Tensor | None, router: Router, experts: Experts
    ) -> tuple[Tensor, Routing]:
        """The routing is for the counts: DeepSpeed routes by itself, so aux loss and z-loss have no gradient.

        Raises:
            ValueError: if a mask is given, tp does not divide the tokens, or an adapter wraps the parameters.
        """
        for module, kind in ((router, Router), (experts, Experts)):
            if not isinstance(module, kind):
                raise ValueError(
                    f"dispatch deepspeed reads {kind.__name__}'s parameters; under {type(module).__name__} "
                    "legal are dropless, capacity"
                )
        if mask_BS is not None:
            raise ValueError("dispatch deepspeed does not support masked tokens; legal: dropless, capacity")
        tp = 1 if self.groups.tp is None else self.groups.tp.size
        num_tokens = x_BSD.shape[0] * x_BSD.shape[1]
        if num_tokens % tp:
            raise ValueError(
                f"{num_tokens} tokens are not divisible by tp {tp}, as dispatch deepspeed requires"
            )
        if self.layer is None:
            self.layer = self._build(router, experts)
        # The same tensors, not copies; set at every call, because an engine may replace parameters.
        self.layer.gate.wg.weight = router.weight
        blocks = experts.blocks
        self.layer.experts.run = recomputed(blocks) if self.recomputes_experts else blocks
        y_BSD = self.layer(x_BSD, None)
        with torch.no_grad():
            x_TD = x_BSD.flatten(0, 1)
            start, length = share_of(num_tokens, self.groups.tp)
            routing = router(x_BSD, x_TD[start : start + length], None, None)
        return y_BSD, routing

    def _build(self, router: Router, experts: Experts) -> Any:
        from deepspeed.moe.sharded_moe import MOELayer, TopKGate
        from deepspeed.utils import groups as deepspeed_groups
        from deepspeed.utils.bwc import bwc_tensor_model_parallel_world_size

        tp, ep = self.groups.tp, self.groups.ep
        known = bwc_tensor_model_parallel_world_size(deepspeed_groups.mpu)
        assert known == (1 if tp is None else tp.size), f"DeepSpeed's mpu says tp {known}, the model has {tp}"
        if tp is not None:
            _gather_flat_tokens()
        with torch.device("meta"):  # its own weight is replaced; making one would consume random numbers
            gate = TopKGate(
                router.weight.shape[1],
                router.num_experts,
                k=router.top_k,
                min_capacity=0,
                drop_tokens=False,
                use_rts=False,
                top2_2nd_expert_sampling=False,
            )
        ep_size = 1 if ep is None else ep.size
        layer = MOELayer(gate, _Blocks(), f"ep_size_{ep_size}", ep_size, experts.num_local)
        layer._set_ep_group(None if ep is None else ep.process_group)
        return layer


class _Blocks:
    """Adapter of `Experts.blocks` to MOELayer's interface: [P, L, C, D] in, [P, L, C, D] out."""

    run: Callable[[Tensor], Tensor]

    def __call__(self, x_PLCD: Tensor) -> Tensor:
        num_ranks, num_local, capacity, hidden = x_PLCD.shape
        x_LRD = x_PLCD.transpose(0, 1).reshape(num_local, num_ranks * capacity, hidden)
        y_LPCD = self.run(x_LRD).view(num_local, num_ranks, capacity, hidden)
        return y_LPCD.transpose(0, 1)


def _gather_flat_tokens() -> None:
    """Replaces DeepSpeed's gather of tokens by one that gloo supports.

    DeepSpeed 0.19.8, moe/mappings.py:40: `all_gather_into_tensor` gets a flat output and an input that is
    not flat; gloo answers "invalid tensor size". When that line passes a flat input, delete this.
    """
    from deepspeed.moe import mappings
    from deepspeed.utils import bwc
    from deepspeed.utils import groups as deepspeed_groups

    def gather(x: Tensor, dim: int = 0) -> Tensor:
        mpu = deepspeed_groups.mpu
        process_group = bwc.bwc_tensor_model_parallel_group(mpu)
        group = Group(
            process_group=process_group,
            ranks=tuple(dist.get_process_group_ranks(process_group)),
            rank=bwc.bwc_tensor_model_parallel_rank(mpu),
            size=bwc.bwc_tensor_model_parallel_world_size(mpu),
        )
        return torch.cat(all_gather(x, group).unbind(0), dim=dim)

    mappings._gather_tokens = gather
