"""Expert-bias update: loss-free load balancing (DeepSeek-V3 report, section 2.1.2)."""

import torch
from torch import Tensor, nn

from model.router import Router


@torch.no_grad()
def update_expert_bias(model: nn.Module, expert_tokens: Tensor, speed: float) -> None:
    """Lowers the router's bias of experts with more tokens than the mean, raises it for those with fewer.

    Args:
        expert_tokens: routes of the global batch to each expert, [MoE layers of `model`, num_experts].
        speed: `training.bias_update_speed`, the size of one step of the bias.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router, counts in zip(routers, expert_tokens.double(), strict=True):
        assert router.bias is not None, "training.balance is loss"
        router.bias += speed * torch.sign(counts.mean() - counts).to(router.bias)
