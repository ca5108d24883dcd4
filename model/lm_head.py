"""LM head, the optional aggregation before it, and chunked vocabulary-parallel cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import (
    Group,
    ModelGroups,
    all_gather,
    copy_to_tp,
    gather_from_tp,
    split_to_tp,
)
from .float8 import Float8Weight
from .linear import ColumnLinear, Float8Linear, RowLinear, make_linear

# T tokens, C tokens of a chunk, V vocabulary (this rank's rows of it under tp), D hidden

# Upper bound of one chunk's fp32 logits. The loss takes about three times that and the gradients of its
# inputs, however many tokens there are.
CHUNK_BYTES = 32 * 2**20
CHUNK_TOKENS_MIN = 128
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Sum over the valid tokens (fp32, with gradient) and their number (int64), both scalars."""

    sum: Tensor
    num_tokens: Tensor


def make_aggregation(hidden_size: int, groups: ModelGroups) -> nn.Module:
    """The square projection before the head; without tp, `nn.Linear`."""
    return make_linear(hidden_size, hidden_size) if groups.tp is None else Aggregation(hidden_size, groups)


def make_lm_head(hidden_size: int, vocab_size: int, groups: ModelGroups) -> nn.Linear | LMHead:
    """The [V, D] output matrix; without tp, `nn.Linear`."""
    if groups.tp is None:
        return make_linear(hidden_size, vocab_size)
    return LMHead(hidden_size, vocab_size, groups)


class Aggregation(RowLinear):
    """Square row-parallel projection before the head; input and output are replicated over tp."""

    def __init__(self, hidden_size: int, groups: ModelGroups) -> None:
        super().__init__(hidden_size, hidden_size, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_share(split_to_tp(x, self.groups.tp, dim=-1))

    def of_share(self, x: Tensor) -> Tensor:
        """The same, given only this rank's columns of x."""
        return super().forward(x)


class LMHead(ColumnLinear):
    """The [V, D] output matrix, its rows (the vocabulary) split over tp."""

    def __init__(self, hidden_size: int, vocab_size: int, groups: ModelGroups) -> None:
        super().__init__(hidden_size, vocab_size, groups)
        self.vocab_size, self.groups = vocab_size, groups

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the full vocabulary, on every tp rank."""
        tp = self.groups.tp
        return gather_from_tp(super().forward(copy_to_tp(x, tp)), self.vocab_size, tp, dim=-1)


def chunked_cross_entropy(
    head: nn.Linear | LMHead,
    x_TD: Tensor,
    targets_T: Tensor,
    mask_T: Tensor | None,
    chunk_tokens: int | None = None,
) -> CrossEntropy:
    """Sum over the tokens that are valid in `mask_T` and whose target is not -100.

    Logits exist for one chunk and one rank's vocabulary only: tp ranks exchange three numbers per token.
    They are products with the head's weight: an adapter or a hook around the head has no part in them.
    """
    if isinstance(head, LMHead):
        weight_VD, first, tp = head.real_weight, head.shard.offsets[0], head.groups.tp
        is_float8 = head.is_float8
    else:
        assert type(head) in (nn.Linear, Float8Linear), (
            f"the head is {type(head).__name__}: only its forward gives the logits"
        )
        weight_VD, first, tp = head.weight, 0, None
        is_float8 = type(head) is Float8Linear
    valid_T = targets_T != IGNORED
    if mask_T is not None:
        valid_T = valid_T & mask_T.bool()
    if chunk_tokens is None:
        chunk_tokens = max(CHUNK_TOKENS_MIN, CHUNK_BYTES // (4 * head.weight.shape[0]))
    total = _ChunkedCrossEntropy.apply(
        copy_to_tp(x_TD, tp), weight_VD, targets_T - first, valid_T, tp, chunk_tokens, is_float8
    )
    return CrossEntropy(sum=total, num_tokens=valid_T.sum())


def next_token_loss(
    logits_BSV: Tensor, labels_BS: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy of each position's logits and the next position's label, in fp32 at least: its mean over
    the labels other than -100, or its sum over `num_items_in_batch`."""
    targets_T = labels_BS[:, 1:].reshape(-1).to(logits_BSV.device)
    logits_TV = logits_BSV[:, :-1].flatten(0, 1)
    wide_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    total = functional.cross_entropy(wide_TV, targets_T, ignore_index=IGNORED, reduction="sum")
    if num_items_in_batch is None:
        return total / (targets_T != IGNORED).sum().clamp(min=1)
    divisor = num_items_in_batch
    return total / (divisor.to(total.device) if isinstance(divisor, Tensor) else divisor)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients of its inputs too, so that logits exist for one chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_VD: Tensor,
        local_targets_T: Tensor,
        valid_T: Tensor,
        group: Group | None,
        chunk_tokens: int,
        is_float8: bool,
    ) -> Tensor:
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_x_TD = torch.empty_like(x_TD) if needs_x else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None
        sums = [x_TD.new_zeros((), dtype=wide)]
        in_float8 = Float8Weight(weight_VD, group) if is_float8 else None
        for start in range(0, x_TD.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            x_CD, valid_C = x_TD[chunk], valid_T[chunk]
            target_C = local_targets_T[chunk]
            is_here_C = (target_C >= 0) & (target_C < weight_VD.shape[0])
            target_C1 = target_C.masked_fill(~is_here_C, 0)[:, None]
            logits_CV = functional.linear(x_CD, weight_VD) if in_float8 is None else in_float8.product(x_CD)
            logits_CV = logits_CV.to(wide)
            target_logit_C = logits_CV.gather(1, target_C1)[:, 0].masked_fill(~is_here_C, 0.0)
            highest_C = logits_CV.amax(1)
            exp_CV = logits_CV.sub_(highest_C[:, None]).exp_()
            log_sum_C, target_logit_C = _whole_vocabulary(highest_C, exp_CV.sum(1), target_logit_C, group)
            sums.append((log_sum_C - target_logit_C).masked_fill(~valid_C, 0.0).sum())
            if not (needs_x or needs_weight):
                continue
            scale_C = (highest_C - log_sum_C).exp().masked_fill(~valid_C, 0.0)
            grad_CV = exp_CV.mul_(scale_C[:, None])
            grad_CV.scatter_add_(1, target_C1, -(is_here_C & valid_C).to(wide)[:, None])
            grad_CV = grad_CV.to(x_TD.dtype)
            if grad_x_TD is not None and in_float8 is not None:
                grad_x_TD[chunk] = in_float8.input_gradient(grad_CV)
            elif grad_x_TD is not None:
                torch.mm(grad_CV, weight_VD, out=grad_x_TD[chunk])
            if grad_weight_VD is not None:
                if wide == x_TD.dtype:
                    grad_weight_VD.addmm_(grad_CV.t(), x_CD)
                else:
                    grad_weight_VD += grad_CV.t() @ x_CD
        ctx.save_for_backward(grad_x_TD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_TD, grad_weight_VD = ctx.saved_tensors
        if grad_x_TD is not None:
            grad_x_TD = grad_x_TD * grad.to(grad_x_TD.dtype)
        if grad_weight_VD is not None:
            grad_weight_VD = (grad_weight_VD * grad).to(ctx.weight_dtype)
        return grad_x_TD, grad_weight_VD, None, None, None, None, None


def _whole_vocabulary(
    highest_C: Tensor, sum_C: Tensor, target_logit_C: Tensor, group: Group | None
) -> tuple[Tensor, Tensor]:
    """Logsumexp and target logit over all ranks' parts of the vocabulary, bit-equal on all of them."""
    if group is None:
        return highest_C + sum_C.log(), target_logit_C
    all_R3C = all_gather(torch.stack([highest_C, sum_C, target_logit_C]), group)
    highest_RC, sum_RC, target_logit_RC = all_R3C.unbind(1)
    top_C = highest_RC.amax(0)
    whole_sum_C = (sum_RC * (highest_RC - top_C).exp()).sum(0)
    return top_C + whole_sum_C.log(), target_logit_RC.sum(0)
