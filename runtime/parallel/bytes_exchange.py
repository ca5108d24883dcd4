"""Exchange of bytes between all ranks of the world, as tensors.

Not torch's gather_object and broadcast_object_list: they unpickle what a peer sends, and a pickle runs code.
"""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# In each function `group` is another group of all ranks, for a thread that exchanges beside the main one.


def gather_bytes(content: bytes, group: dist.ProcessGroup | None = None) -> list[bytes] | None:
    """Every rank's bytes, in rank order, on rank 0; None elsewhere. Collective over the world."""
    world_size, device = dist.get_world_size(), _device(group)
    own_size = torch.tensor([len(content)], dtype=torch.int64, device=device)
    all_sizes = own_size.new_empty(world_size)
    dist.all_gather_into_tensor(all_sizes, own_size, group=group)
    sizes = all_sizes.tolist()
    padded = torch.zeros(max(1, *sizes), dtype=torch.uint8, device=device)
    padded[: len(content)] = _to_tensor(content, device)
    if dist.get_rank() != 0:
        dist.gather(padded, None, dst=0, group=group)
        return None
    received = [torch.empty_like(padded) for _ in range(world_size)]
    dist.gather(padded, received, dst=0, group=group)
    return [_to_bytes(tensor[:size]) for tensor, size in zip(received, sizes, strict=True)]


def broadcast_bytes(content: bytes, group: dist.ProcessGroup | None = None) -> bytes:
    """Rank 0's bytes; what the others pass is not looked at. Collective over the world."""
    device = _device(group)
    size = torch.tensor([len(content)], dtype=torch.int64, device=device)
    dist.broadcast(size, src=0, group=group)
    if dist.get_rank() == 0:
        tensor = _to_tensor(content, device)
    else:
        tensor = torch.empty(int(size.item()), dtype=torch.uint8, device=device)
    if len(tensor):
        dist.broadcast(tensor, src=0, group=group)
    return _to_bytes(tensor)


def exchange_json(content: Any) -> list[Any]:
    """What every rank says, in rank order, on every rank. Collective over the world."""
    gathered = gather_bytes(json.dumps(content).encode())
    merged = b"" if gathered is None else json.dumps([json.loads(one) for one in gathered]).encode()
    everything: list[Any] = json.loads(broadcast_bytes(merged))
    return everything


def _device(group: dist.ProcessGroup | None) -> torch.device:
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def _to_tensor(content: bytes, device: torch.device) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8, device=device)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)


def _to_bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().numpy().tobytes()
