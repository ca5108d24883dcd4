"""Attention masks: causal with padding, or a complete 4-D mask of the caller's.

Both become what `scaled_dot_product_attention` takes: (mask [B, 1, S, L] or None, is_causal).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# B sequences, S tokens of each now, L tokens of each with those in the cache, H heads


def real_tokens(attention_mask: Tensor | None, num_sequences: int, num_tokens: int) -> Tensor | None:
    """[B, L] bool, or None where every token is real (the faster path).

    Raises:
        ValueError: for another shape.
    """
    if attention_mask is None:
        return None
    if tuple(attention_mask.shape) != (num_sequences, num_tokens):
        raise ValueError(
            f"attention_mask is {tuple(attention_mask.shape)}; legal: 2-D, {(num_sequences, num_tokens)}, "
            "cached tokens included, or 4-D"
        )
    mask_BL = attention_mask.bool()
    return None if bool(mask_BL.all()) else mask_BL


def causal_mask(
    mask_BL: Tensor | None, num_new: int, num_cached: int, num_keys: int, device: torch.device
) -> tuple[Tensor | None, bool]:
    """`mask_BL` is true for real tokens, cached ones first; None: all are real.

    A padded token attends to itself, so that no row is empty (an empty row gives NaN); no real token attends
    to it.
    """
    if mask_BL is None and num_keys == num_cached + num_new:
        if num_cached == 0:
            return None, num_new > 1
        if num_new == 1:
            return None, False
    query = torch.arange(num_cached, num_cached + num_new, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None, :]
    allowed = (key <= query)[None, None]
    if mask_BL is not None:
        real = functional.pad(mask_BL.bool(), (0, num_keys - mask_BL.shape[1]))
        allowed = (allowed & real[:, None, None, :]) | (key == query)
    return allowed, False


def explicit_mask(
    mask: Tensor, num_sequences: int, num_heads: int, num_new: int, num_keys: int, dtype: torch.dtype
) -> tuple[Tensor, bool]:
    """A 4-D mask as it is: bool, true where a query may attend to a key, or a float that is added to scores.

    It is complete: nothing is added to it, not even causality. A query that may attend to no key attends to
    all of them, evenly or by score: an empty row gives NaN, which would reach other tokens.

    Raises:
        ValueError: for another shape, or integers, which could mean either.
    """
    sequences, heads, *rest = mask.shape
    if sequences not in (1, num_sequences) or heads not in (1, num_heads) or rest != [num_new, num_keys]:
        raise ValueError(
            f"attention_mask is {tuple(mask.shape)}; legal in 4-D: "
            f"{(num_sequences, 1, num_new, num_keys)}, also with {num_heads} heads or 1 sequence"
        )
    if mask.dtype == torch.bool:
        return mask | ~mask.any(-1, keepdim=True), False
    if not mask.is_floating_point():
        raise ValueError(
            f"attention_mask is 4-D of {mask.dtype}; legal: bool (true: attend), or float (added to scores)"
        )
    empty = (mask <= torch.finfo(mask.dtype).min).all(-1, keepdim=True)
    return mask.masked_fill(empty, 0.0).to(dtype), False
