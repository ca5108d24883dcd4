"""Whether this host has a GPU that a rank may use, without torch: only the standard library."""

import os
from collections.abc import Mapping
from pathlib import Path

# NVIDIA's driver, AMD's, and the one of Windows' Linux subsystem.
_SIGNS = ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*", "dev/kfd", "dev/dxg")
_HIDDEN = ("", "-1", "NoDevFiles")  # Slurm sets the last for a step without GPUs


def has_gpu(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """False is certain; where it is True, torch may still find none that it can use."""
    if environment.get("CUDA_VISIBLE_DEVICES") in _HIDDEN:
        return False
    return any(next(root.glob(sign), None) is not None for sign in _SIGNS)
