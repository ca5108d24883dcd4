"""Rules on `model.dispatch: deepspeed`: what DeepSpeed's own gate and MoE layer cannot do.

The gate of DeepSpeed 0.19.8 (sharded_moe.py) returns neither router logits nor masks.
"""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.layout import find_widest_size
from planner.rules.legal_values import join_numbers
from planner.strategy.schema import Strategy


def deepspeed_dispatch_has_no_bias(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance != "loss":
        yield _cannot("training.balance", s.training.balance, "loss", "has no per-expert bias")


def deepspeed_dispatch_has_no_balance_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance_loss != 0:
        value = f"{s.training.balance_loss:g}"
        yield _cannot("training.balance_loss", value, "0", "has no per-sequence auxiliary loss")


def deepspeed_dispatch_has_no_z_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.z_loss != 0:
        yield _cannot("training.z_loss", f"{s.training.z_loss:g}", "0", "does not return router logits")


def deepspeed_dispatch_renormalizes_by_itself(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.model.norm_topk_prob is not None:
        value = str(s.model.norm_topk_prob).lower()
        yield _cannot("model.norm_topk_prob", value, "null", "always renormalizes for k > 1, never for k = 1")


def _cannot(path: str, value: str, legal: str, why: str) -> Problem:
    return Problem(
        code="SW231",
        path=path,
        found=f"{value} with model.dispatch deepspeed: DeepSpeed's gate {why}",
        expected=legal,
        fix=f"set {path} to {legal}, or model.dispatch to dropless",
    )


def deepspeed_dispatch_splits_tokens_over_tp(s: Strategy) -> Iterator[Problem]:
    tp = s.parallel.tp
    tokens = s.training.micro_batch * s.training.seq_length
    small_divisors = tuple(d for d in range(1, 65) if tokens % d == 0)
    if s.model.dispatch == "deepspeed" and s.parallel.placement == "colocated" and tokens % tp:
        yield Problem(
            code="SW232",
            path="parallel.tp",
            found=f"{tp} does not divide the {tokens} tokens of a micro-batch",
            expected="with model.dispatch deepspeed a divisor of micro_batch × seq_length: "
            f"{join_numbers(small_divisors)}",
            fix="set model.dispatch to dropless, or change training.seq_length or parallel.tp",
        )


def deepspeed_dispatch_needs_full_validation_batches(s: Strategy) -> Iterator[Problem]:
    sequences, held_out = s.training.micro_batch * find_widest_size(s), s.data.validation_sequences
    if s.model.dispatch == "deepspeed" and held_out % sequences:
        yield Problem(
            code="SW233",
            path="data.validation_sequences",
            found=f"{held_out} needs padding, which model.dispatch deepspeed cannot mask",
            expected=f"a multiple of micro_batch × data-parallel size: {sequences}",
            fix=f"set data.validation_sequences to {-(-held_out // sequences) * sequences}",
        )


def deepspeed_dispatch_cannot_mask_padding(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.data.packing == "documents":
        yield Problem(
            code="SW234",
            path="data.packing",
            found="documents pads sequences, which model.dispatch deepspeed cannot mask",
            expected="stream, with model.dispatch deepspeed",
            fix="set data.packing to stream, or model.dispatch to dropless",
        )


RULES = (
    deepspeed_dispatch_has_no_bias,
    deepspeed_dispatch_has_no_balance_loss,
    deepspeed_dispatch_has_no_z_loss,
    deepspeed_dispatch_renormalizes_by_itself,
    deepspeed_dispatch_splits_tokens_over_tp,
    deepspeed_dispatch_needs_full_validation_batches,
    deepspeed_dispatch_cannot_mask_padding,
)
