"""Checkpoints in safetensors that any layout reads; committed atomically.

The format and its writer are our own. torch.distributed.checkpoint pickles its metadata and knows no flat
ranges, which is what ZeRO leaves on a rank; safetensors' own writer needs all tensors in memory at once and a
second pass over the bytes for the hash. safetensors reads the files.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.checkpoint.reader import Reader
    from runtime.checkpoint.store import newest

__all__ = ["Reader", "newest"]


def __getattr__(name: str) -> object:
    """Loads them when they are asked for: a rank that is stopped while torch loads names its checkpoint."""
    if name == "Reader":
        from runtime.checkpoint.reader import Reader

        return Reader
    if name == "newest":
        from runtime.checkpoint.store import newest

        return newest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
