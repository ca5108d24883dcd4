"""Mixture-of-Experts layer: router, dispatch, this rank's experts, shared experts."""

from __future__ import annotations

from torch import Tensor

from .collectives import ModelGroups, gather_from_tp, split_to_tp
from .configuration_switchyard import SwitchyardConfig
from .deepspeed_dispatch import StockDispatch
from .dispatch import dispatch
from .experts import Experts
from .fused import FusedModule
from .mlp import MLP
from .recompute import RoutingReplay
from .router import Router, Routing

# B sequences, S tokens of each, T = B·S tokens, U this rank's share of them, D hidden


class MoELayer(FusedModule):
    """y = Σ gate · expert(x) over each token's experts, plus the shared experts.

    `dispatch` applies to training: `capacity` drops tokens beyond an expert's capacity, `deepspeed` uses
    DeepSpeed's own layer. Evaluation and generation are always dropless, so that a prediction does not depend
    on the rest of the sequence or on a cache; an exported model runs without DeepSpeed.

    `ep_size`, `num_experts`, `num_local_experts` and `expert_group_name` are what DeepSpeed's engine reads
    from its own MoE class.
    """

    def __init__(self, config: SwitchyardConfig, groups: ModelGroups) -> None:
        super().__init__()
        self.groups = groups
        self.ep_size = 1 if groups.ep is None else groups.ep.size
        self.num_experts = config.num_experts
        self.num_local_experts = config.num_experts // self.ep_size
        self.expert_group_name = f"ep_size_{self.ep_size}"
        self.router = Router(config, groups)
        self.experts = Experts(config, groups)
        self.shared_experts: MLP | None = None
        if config.num_shared_experts:
            width = config.num_shared_experts * config.moe_intermediate_size
            self.shared_experts = MLP(config.expert, config.hidden_act, config.hidden_size, width, groups)
        self.capacity_factor = config.capacity_factor if config.dispatch == "capacity" else None
        self.stock = StockDispatch(groups) if config.dispatch == "deepspeed" else None
        self.recomputes_experts = False

    def check_replay(self) -> None:
        """
        Raises:
            ValueError: where a second pass would decide the routes again.
        """
        if self.stock is not None:
            raise ValueError(
                "dispatch deepspeed routes inside DeepSpeed: recomputing a layer would route twice; "
                "legal: dropless, capacity, or recomputing attention or experts"
            )

    def forward(self, x_BSD: Tensor, mask_BS: Tensor | None, replay: RoutingReplay) -> tuple[Tensor, Routing]:
        """Masked tokens get zeros from the routed experts. `replay`: of these tokens' first pass.

        Raises:
            ValueError: for a mask, or forced experts, with dispatch deepspeed in training, which supports
                neither.
        """
        tp = self.groups.tp
        # Before the routed experts: backward of a recomputed layer then needs nothing that comes after their
        # last product, and the second pass stops there, without their way back.
        shared_BSD = None if self.shared_experts is None else self.shared_experts(x_BSD)
        if self.training and self.stock is not None:
            if replay.forced_BSK is not None:
                raise ValueError("dispatch deepspeed chooses experts by itself; legal: dropless, capacity")
            self.stock.recomputes_experts = self.recomputes_experts
            y_BSD, routing = self.stock(x_BSD, mask_BS, self.router, self.experts)
        else:
            x_TD = x_BSD.flatten(0, 1)
            x_UD = split_to_tp(x_TD, tp)
            capacity_factor = self.capacity_factor if self.training else None
            routing = self.router(x_BSD, x_UD, mask_BS, capacity_factor, replay)
            recomputes = self.recomputes_experts and self.training
            y_UD = dispatch(
                x_UD,
                routing,
                self.experts,
                self.groups,
                replay,
                recomputes_experts=recomputes,
                is_fused="permutation" in self.fused,
            )
            y_BSD = gather_from_tp(y_UD, len(x_TD), tp).view_as(x_BSD)
        return y_BSD if shared_BSD is None else y_BSD + shared_BSD, routing
