"""Checkpoints in safetensors that any layout reads; committed atomically.

The format and its writer are our own. torch.distributed.checkpoint pickles its metadata and knows no flat
ranges, which is what ZeRO leaves on a rank; safetensors' own writer needs all tensors in memory at once and a
second pass over the bytes for the hash. safetensors reads the files.
"""

from runtime.checkpoint.reader import Reader
from runtime.checkpoint.store import newest

__all__ = ["Reader", "newest"]
