"""Top-k softmax router with capacity, aux loss (load balancing, training.balance_loss) and z-loss.

TP partners hold the same tokens. Each computes the routes of all of them from the same numbers, without
gradient, and gates, aux loss and z-loss, with gradient, on its own contiguous share. With training.balance
bias, runtime/training/expert_bias.py moves the router's bias after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import ModelGroups, share_of, sum_gradients
from .configuration_switchyard import SwitchyardConfig
from .fused import FusedModule, Region
from .norm import at_least_fp32
from .recompute import RoutingReplay

# B sequences, S tokens of each, T = B·S tokens, U this rank's share of them, D hidden, E experts, K top-k


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The routes of this rank's share of the tokens, with their losses and counts."""

    experts_UK: Tensor  # int64
    gates_UK: Tensor  # fp32, with gradient; 0 where not kept
    kept_UK: Tensor | None  # bool; None: every route is kept
    aux_loss: Tensor  # this share's part of the sum over sequences of Σ f·P, with gradient
    z_loss: Tensor  # this share's part of the sum over valid tokens of logsumexp², with gradient
    expert_tokens_E: Tensor  # int64: this share's routes to each expert before any drop
    dropped: Tensor  # int64: this share's dropped routes
    logits_TE: Tensor  # fp32, all tokens, without gradient under tp


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a router decides about its tokens, without gradient.

    Counts are of this rank's share. Masked tokens have no routes.
    """

    experts_TK: Tensor  # int64
    is_route_TK: Tensor | None  # bool; None: every token is valid
    kept_TK: Tensor | None  # bool, routes within capacity; None: every route is kept
    tokens_B: Tensor  # int64: valid tokens of each sequence
    expert_tokens_E: Tensor  # int64: routes to each expert before any drop
    dropped: Tensor  # int64


class Router(FusedModule):
    """Softmax over all experts in fp32, then the k highest; `weight` is [E, D], the same on every rank."""

    def __init__(self, config: SwitchyardConfig, groups: ModelGroups) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.num_experts_per_tok
        self.normalizes_gates = config.normalizes_gates
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        # DeepSeek-V3's loss-free balancing: it affects the choice of experts only, not the gates.
        self.bias: Tensor | None
        bias = torch.zeros(config.num_experts, dtype=torch.float32) if config.router_bias else None
        self.register_buffer("bias", bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Moves and casts as any module, but the bias keeps fp32: bf16 would lose the steps that training
        adds to it (0.001 to a bias of 0.5)."""
        bias = self.bias
        super()._apply(fn, recurse)
        if bias is not None and self.bias is not None and self.bias.dtype.itemsize < 4:
            self.bias = bias.to(device=self.bias.device, dtype=torch.float32)
        return self

    def forward(
        self,
        x_BSD: Tensor,
        x_UD: Tensor,
        mask_BS: Tensor | None,
        capacity_factor: float | None,
        replay: RoutingReplay | None = None,
    ) -> Routing:
        """`x_UD` is this rank's share of the rows of `x_BSD`; only it gets a gradient.

        `capacity_factor` None: nothing is dropped. Masked tokens have no routes and count nowhere. `replay`:
        of the layer's first pass, whose choice is taken if it has one. Where experts are forced, their scores
        are the gates.
        """
        num_sequences, num_tokens = x_BSD.shape[:2]
        tp = self.groups.tp
        start, length = share_of(num_sequences * num_tokens, tp)
        mine = slice(start, start + length)
        weight = sum_gradients(at_least_fp32(self.weight), tp)
        logits_UE = functional.linear(at_least_fp32(x_UD), weight)
        is_fused = "router" in self.fused
        scores_UE, squares_U = SCORES(logits_UE) if is_fused else _scores(logits_UE)
        logits_TE = logits_UE

        def choose() -> Choice:
            nonlocal logits_TE
            scores_TE = scores_UE.detach()
            if tp is not None:
                with torch.no_grad():
                    logits_TE = functional.linear(at_least_fp32(x_BSD.detach().flatten(0, 1)), weight)
                    # By the same kernel as without tp.
                    scores_TE = SCORES.forward(logits_TE)[0] if is_fused else logits_TE.softmax(-1)
            forced_BSK = None if replay is None else replay.forced_BSK
            shape_BS = (num_sequences, num_tokens)
            return self._choose(scores_TE, shape_BS, mine, mask_BS, capacity_factor, forced_BSK)

        choice = choose() if replay is None else replay.once("choice", choose)
        experts_UK = choice.experts_TK[mine]
        kept_UK = None if choice.kept_TK is None else choice.kept_TK[mine]
        weights_UE = self._aux_loss_weights(choice, num_tokens, scores_UE.dtype)[mine]
        arguments = (scores_UE, experts_UK, weights_UE, *(() if kept_UK is None else (kept_UK,)))
        if is_fused:
            gates_UK, aux_loss = gates_region(self.normalizes_gates, kept_UK is not None)(*arguments)
        else:
            gates_UK, aux_loss = _gates(*arguments, normalizes=self.normalizes_gates)
        if choice.is_route_TK is not None:
            squares_U = squares_U.masked_fill(~choice.is_route_TK[mine, 0], 0.0)
        return Routing(
            experts_UK=experts_UK,
            gates_UK=gates_UK,
            kept_UK=kept_UK,
            aux_loss=aux_loss,
            z_loss=squares_U.sum(),
            expert_tokens_E=choice.expert_tokens_E,
            dropped=choice.dropped,
            logits_TE=logits_TE,
        )

    def _choose(
        self,
        scores_TE: Tensor,
        shape_BS: tuple[int, int],
        mine: slice,
        mask_BS: Tensor | None,
        capacity_factor: float | None,
        forced_BSK: Tensor | None,
    ) -> Choice:
        """The k experts of the highest scores, of equal scores as topk takes them; or those forced."""
        num_sequences, num_tokens = shape_BS
        if forced_BSK is None:
            ranking_TE = scores_TE if self.bias is None else scores_TE + self.bias.to(scores_TE.dtype)
            experts_TK = ranking_TE.topk(self.top_k, -1).indices
        else:
            experts_TK = forced_BSK.flatten(0, 1)
        valid_T = None if mask_BS is None else mask_BS.reshape(-1).bool()
        tokens_B = _tokens_of_sequences(mask_BS, num_sequences, num_tokens, scores_TE.device)
        is_route_TK = valid_T if valid_T is None else valid_T[:, None].expand_as(experts_TK)
        kept_TK = is_route_TK
        if capacity_factor is not None:
            capacity_B = (capacity_factor * self.top_k * tokens_B.double() / self.num_experts).ceil().long()
            fits_TK = self._within_capacity(scores_TE, experts_TK, valid_T, capacity_B)
            kept_TK = fits_TK if kept_TK is None else fits_TK & kept_TK
        routes_UK = _ones_of(is_route_TK, experts_TK)[mine]
        expert_tokens_E = experts_TK.new_zeros(self.num_experts)
        expert_tokens_E.scatter_add_(0, experts_TK[mine].reshape(-1), routes_UK.reshape(-1))
        dropped = expert_tokens_E.new_zeros(())
        if kept_TK is not None:
            dropped = routes_UK.sum() - kept_TK[mine].sum()
        return Choice(
            experts_TK=experts_TK,
            is_route_TK=is_route_TK,
            kept_TK=kept_TK,
            tokens_B=tokens_B,
            expert_tokens_E=expert_tokens_E,
            dropped=dropped,
        )

    def _aux_loss_weights(self, choice: Choice, num_tokens: int, dtype: torch.dtype) -> Tensor:
        """[T, E]: d(Σ_sequences Σ_i f_i·P_i)/d(score), which is f_i / S of the token's sequence.

        The aux loss is linear in the scores, because f has no gradient: scores times these weights, summed
        over any share of the tokens, is that share's part of it. f_i = E/(k·S) · the sequence's routes to
        expert i.
        """
        experts_TK, is_route_TK, tokens_B = choice.experts_TK, choice.is_route_TK, choice.tokens_B
        routes_TK = _ones_of(is_route_TK, experts_TK)
        counts_BE = experts_TK.new_zeros(len(tokens_B), self.num_experts)
        by_sequence = (len(tokens_B), num_tokens * self.top_k)
        counts_BE.scatter_add_(1, experts_TK.view(by_sequence), routes_TK.reshape(by_sequence))
        tokens_B1 = tokens_B.clamp(min=1)[:, None].double()
        weights_BE = (counts_BE.double() * (self.num_experts / self.top_k) / tokens_B1.square()).to(dtype)
        weights_TE = weights_BE.repeat_interleave(num_tokens, 0, output_size=len(experts_TK))
        return weights_TE if is_route_TK is None else weights_TE.masked_fill(~is_route_TK[:, :1], 0.0)

    def _within_capacity(
        self, scores_TE: Tensor, experts_TK: Tensor, valid_T: Tensor | None, capacity_B: Tensor
    ) -> Tensor:
        """[T, K] bool: the route is among the `capacity` highest scores of its sequence and expert.

        Of equal scores the earlier position is kept. Scores count as equal when they agree to 1 part in 2^15:
        a sequence that begins with the same token twice has the same score twice, but for rounding, and
        rounding differs from layout to layout.
        """
        num_tokens = len(experts_TK) // len(capacity_B)
        sequence_T1 = torch.arange(len(experts_TK), device=experts_TK.device)[:, None] // num_tokens
        # A queue for each sequence and expert, and one for tokens that are masked.
        queue_TK = sequence_T1 * (self.num_experts + 1) + experts_TK
        if valid_T is not None:
            nowhere_T1 = sequence_T1 * (self.num_experts + 1) + self.num_experts
            queue_TK = torch.where(valid_T[:, None], queue_TK, nowhere_T1)
        queue_R = queue_TK.reshape(-1)
        by_score_R = _coarse(scores_TE.gather(1, experts_TK).reshape(-1)).argsort(
            descending=True, stable=True
        )
        by_queue_R = by_score_R[queue_R[by_score_R].argsort(stable=True)]
        sorted_R = queue_R[by_queue_R]
        place_R = torch.arange(len(sorted_R), device=sorted_R.device) - torch.searchsorted(sorted_R, sorted_R)
        fits_R = place_R < capacity_B[sorted_R // (self.num_experts + 1)]
        return torch.empty_like(fits_R).scatter_(0, by_queue_R, fits_R).view_as(experts_TK)


def _scores(logits_UE: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the experts, and each token's term of the z-loss."""
    return logits_UE.softmax(-1), logits_UE.logsumexp(-1).square()


def _gates(
    scores_UE: Tensor,
    experts_UK: Tensor,
    weights_UE: Tensor,
    kept_UK: Tensor | None = None,
    *,
    normalizes: bool,
) -> tuple[Tensor, Tensor]:
    """Gates of the routes, and the aux loss of these tokens."""
    gates_UK = scores_UE.gather(1, experts_UK)
    if normalizes:
        gates_UK = gates_UK / gates_UK.sum(-1, keepdim=True)
    if kept_UK is not None:
        gates_UK = gates_UK.masked_fill(~kept_UK, 0.0)
    return gates_UK, (scores_UE * weights_UE).sum()


SCORES = Region("router", _scores, has_rows=(True,), differentiable=(0,))


@lru_cache
def gates_region(normalizes: bool, has_drops: bool) -> Region:
    """Of scores [N, E], experts [N, K], the aux loss's weights [N, E], and with `has_drops` which routes are
    kept."""

    def run(*args: Tensor) -> tuple[Tensor, Tensor]:
        return _gates(*args, normalizes=normalizes)

    return Region("router", run, has_rows=(True,) * (4 if has_drops else 3), differentiable=(0,))


def _coarse(scores_R: Tensor) -> Tensor:
    """Positive scores rounded to 16 significant bits, as int32 in the same order."""
    return (scores_R.float().view(torch.int32) + 0x80) >> 8


def _tokens_of_sequences(
    mask_BS: Tensor | None, num_sequences: int, num_tokens: int, device: torch.device
) -> Tensor:
    """S of the formulas: valid tokens of each sequence, [B] int64."""
    if mask_BS is None:
        return torch.full((num_sequences,), num_tokens, device=device)
    return mask_BS.bool().sum(1)


def _ones_of(is_route_TK: Tensor | None, like_TK: Tensor) -> Tensor:
    return torch.ones_like(like_TK) if is_route_TK is None else is_route_TK.long()
