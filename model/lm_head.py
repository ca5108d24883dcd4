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
from .fused import Kernel, Rows
from .linear import ColumnLinear, Float8Linear, RowLinear, make_linear
from .norm import at_least_fp32

# T tokens, C tokens of a chunk, V vocabulary (this rank's rows of it under tp), D hidden

IGNORED = -100
_SCALED_AT_ONCE = 2**24  # elements of a gradient that are in fp32 at once while they are scaled


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
        self.vocab_size = vocab_size

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
    *,
    is_fused: bool = False,
) -> CrossEntropy:
    """Sum over the tokens that are valid in `mask_T` and whose target is not -100.

    Logits exist for one chunk and one rank's vocabulary only: tp ranks exchange two numbers per token.
    They are products with the head's weight: an adapter or a hook around the head has no part in them.

    `chunk_tokens`: the same on all tp ranks; None: all tokens at once.
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
        chunk_tokens = max(1, len(x_TD))
    total = _ChunkedCrossEntropy.apply(
        copy_to_tp(x_TD, tp), weight_VD, targets_T - first, valid_T, tp, chunk_tokens, is_float8, is_fused
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
    """Forward computes the gradients of its inputs too, so that logits exist for one chunk at a time, in the
    same tensors for all chunks. Backward scales them in place, and so runs once."""

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
        is_fused: bool,
    ) -> Tensor:
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        num_tokens = x_TD.shape[0]
        num_rows = min(chunk_tokens, num_tokens)
        grad_x_TD = torch.empty_like(x_TD) if needs_x else None
        grad_weight = _WeightGradient(weight_VD, is_one=num_rows == num_tokens) if needs_weight else None
        logits_RV = x_TD.new_empty(num_rows, weight_VD.shape[0])
        is_wide = is_fused or wide == x_TD.dtype  # a kernel widens logits as it reads them
        wide_RV = logits_RV if is_wide else torch.empty_like(logits_RV, dtype=wide)
        sums = [x_TD.new_zeros((), dtype=wide)]
        in_float8 = Float8Weight(weight_VD, group) if is_float8 else None
        for start in range(0, num_tokens, chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            x_CD, valid_C = x_TD[chunk], valid_T[chunk]
            target_C = local_targets_T[chunk]
            is_here_C = (target_C >= 0) & (target_C < weight_VD.shape[0])
            target_C1 = target_C.masked_fill(~is_here_C, 0)[:, None]
            logits_CV, scores_CV = logits_RV[: len(x_CD)], wide_RV[: len(x_CD)]
            if in_float8 is None:
                torch.mm(x_CD, weight_VD.t(), out=logits_CV)
            else:
                logits_CV.copy_(in_float8.product(x_CD))
            if scores_CV.dtype != logits_CV.dtype:
                scores_CV.copy_(logits_CV)
            if is_fused:
                log_sum_C, target_logit_C = LOG_SUMS(logits_CV, target_C1)
            else:
                target_logit_C = scores_CV.gather(1, target_C1)[:, 0]
                log_sum_C = _softmax_in_place(scores_CV)
            target_logit_C = target_logit_C.masked_fill(~is_here_C, 0.0)
            whole_C, target_logit_C = _whole_vocabulary(log_sum_C, target_logit_C, group)
            sums.append((whole_C - target_logit_C).masked_fill(~valid_C, 0.0).sum())
            if not (needs_x or needs_weight):
                continue
            if is_fused:
                LOGITS_GRADIENT(logits_CV, whole_C, target_C, valid_C)
            else:
                scores_CV.mul_((log_sum_C - whole_C).exp().masked_fill(~valid_C, 0.0)[:, None])
                scores_CV.scatter_add_(1, target_C1, -(is_here_C & valid_C).to(wide)[:, None])
            grad_CV = logits_CV
            if scores_CV.dtype != grad_CV.dtype:
                grad_CV.copy_(scores_CV)
            if grad_x_TD is not None and in_float8 is not None:
                grad_x_TD[chunk] = in_float8.input_gradient(grad_CV)
            elif grad_x_TD is not None:
                torch.mm(grad_CV, weight_VD, out=grad_x_TD[chunk])
            if grad_weight is not None:
                grad_weight.add(grad_CV, x_CD)
        ctx.save_for_backward(grad_x_TD, None if grad_weight is None else grad_weight.finished())
        ctx.weight_dtype = weight_VD.dtype
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_TD, grad_weight_VD = ctx.saved_tensors
        if grad_x_TD is not None:
            _scale_in_place(grad_x_TD, grad)
        if grad_weight_VD is not None:
            _scale_in_place(grad_weight_VD, grad)
            grad_weight_VD = grad_weight_VD.to(ctx.weight_dtype)
        return grad_x_TD, grad_weight_VD, None, None, None, None, None, None


class _WeightGradient:
    """The head's weight gradient, summed over chunks in one tensor, in fp32 at least.

    Of one chunk it is the product as it comes.
    """

    def __init__(self, weight_VD: Tensor, *, is_one: bool) -> None:
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        self.sum_VD = torch.empty_like(weight_VD, dtype=weight_VD.dtype if is_one else wide)
        self._product_VD: Tensor | None = None
        self._is_empty = True

    def add(self, grad_CV: Tensor, x_CD: Tensor) -> None:
        total_VD, beta = self.sum_VD, int(not self._is_empty)
        if total_VD.dtype == x_CD.dtype:
            torch.addmm(total_VD, grad_CV.t(), x_CD, beta=beta, out=total_VD)
        elif _can_add_wide_product(x_CD):
            torch.addmm(total_VD, grad_CV.t(), x_CD, out_dtype=total_VD.dtype, beta=beta, out=total_VD)
        elif self._is_empty:
            self._product_VD = grad_CV.t() @ x_CD
            total_VD.copy_(self._product_VD)
        else:
            total_VD.add_(torch.mm(grad_CV.t(), x_CD, out=self._product_VD))
        self._is_empty = False

    def finished(self) -> Tensor:
        """Zeros if nothing was added."""
        return self.sum_VD.zero_() if self._is_empty else self.sum_VD


def _can_add_wide_product(x_CD: Tensor) -> bool:
    """Whether a product of bf16 matrices can be added to an fp32 tensor: on CUDA since torch 2.12, with `out`
    the tensor that is added to. torch 2.13 has no such product on CPUs."""
    return x_CD.is_cuda and torch.__version__ >= "2.12"  # torch compares versions, not text


def _softmax_in_place(logits_CV: Tensor) -> Tensor:
    """Turns logits to softmax over this rank's vocabulary; returns their logsumexp.

    torch's softmax has a faster exp than `exp` on CPUs, and one pass less. The highest logit's probability
    is one over the sum of exp(logit - highest).
    """
    highest_C = logits_CV.amax(1)
    torch.softmax(logits_CV, 1, out=logits_CV)
    return highest_C - logits_CV.amax(1).log()


def _log_sums(logits_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor]:
    """Logsumexp over this rank's vocabulary, and the logit of the target, in fp32 at least."""
    wide_CV = at_least_fp32(logits_CV)
    return wide_CV.logsumexp(1), wide_CV.gather(1, target_C1)[:, 0]


def _logits_gradient(logits_CV: Tensor, whole_C: Tensor, target_C: Tensor, valid_C: Tensor) -> None:
    """Turns logits to their gradient, in place: softmax less one for the target, zeros for what is not valid.

    `target_C` is of this rank's vocabulary; one of another rank's is in none of its columns.
    """
    gradient_CV = (at_least_fp32(logits_CV) - whole_C[:, None]).exp()
    columns_V = torch.arange(logits_CV.shape[1], device=logits_CV.device)
    gradient_CV = torch.where(columns_V == target_C[:, None], gradient_CV - 1, gradient_CV)
    logits_CV.copy_(gradient_CV.masked_fill(~valid_C[:, None], 0.0))


LOG_SUMS = Kernel("cross_entropy sums", _log_sums, [Rows(), Rows()])
LOGITS_GRADIENT = Kernel("cross_entropy gradient", _logits_gradient, [Rows()] * 4)


def _scale_in_place(x: Tensor, factor: Tensor) -> None:
    """By a scalar of a wider dtype than `x` may have, which `mul_` would round to the dtype of `x`."""
    if x.dtype == factor.dtype:
        x.mul_(factor)
        return
    for part in x.view(-1).split(_SCALED_AT_ONCE):
        part.copy_(part.to(factor.dtype).mul_(factor))


def _whole_vocabulary(
    log_sum_C: Tensor, target_logit_C: Tensor, group: Group | None
) -> tuple[Tensor, Tensor]:
    """Logsumexp and target logit over all ranks' parts of the vocabulary, bit-equal on all of them."""
    if group is None:
        return log_sum_C, target_logit_C
    log_sum_RC, target_logit_RC = all_gather(torch.stack([log_sum_C, target_logit_C]), group).unbind(1)
    return log_sum_RC.logsumexp(0), target_logit_RC.sum(0)
