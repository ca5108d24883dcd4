"""Fingerprint of a tensor's bits: 64 bits that differ wherever a single element does.

Σ bits_i · w_i modulo 2⁶⁴ with odd weights w_i: one element that changes, by however many bits, always changes
the sum, as an odd number has an inverse there; two changes cancel only where their weights happen to match.
torch.hash_tensor is an xor: two equal flips anywhere in it cancel.
"""

import torch
from torch import Tensor

from planner.memory.optimizer_state import update_chunk_elements

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STRIDE = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ / φ, as a signed number: spreads neighbouring places


def bits_of(x: Tensor) -> Tensor:
    """The flat elements as integers of the same size."""
    flat = x.detach().reshape(-1)
    return flat.view(_BITS[flat.element_size()])


@torch.no_grad()
def fingerprint(x: Tensor) -> Tensor:
    """An int64 scalar on the tensor's device; nothing waits for it."""
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    place = 0
    for chunk in bits_of(x).split(update_chunk_elements(is_cpu=x.device.type == "cpu")):
        places = torch.arange(place, place + len(chunk), dtype=torch.int64, device=x.device)
        weights = places.mul_(_STRIDE).bitwise_or_(1)
        total += weights.mul_(chunk).sum()
        place += len(chunk)
    return total
