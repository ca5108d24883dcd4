"""Tensors in which a check has found silent corruption, kept in the run's folder: each side's."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

FOLDER_NAME = "corruption"
# Of one rank: so many tensors are written, the first that differ.
MAX_KEPT = 8


def keep(tensors: Mapping[str, Tensor], folder: Path | None, step: int) -> Path | None:
    """Writes this rank's tensors to RUN/corruption/; returns the folder, the same on every rank.

    A disk that takes no file does not hide what was found.
    """
    if folder is None:
        return None
    place = folder / FOLDER_NAME / f"step-{step:08d}"
    kept = {name: tensor.detach().cpu().clone() for name, tensor in list(tensors.items())[:MAX_KEPT]}
    if kept:
        file = place / f"rank-{dist.get_rank():04d}.safetensors"
        try:
            place.mkdir(parents=True, exist_ok=True)
            save_file(kept, file, metadata={"step": str(step)})
        except OSError as error:
            logger.warning("SW968 %s could not be written: %s", file, error)
    return place
