"""Fused kernels of a complete model: which of its modules use them."""

from __future__ import annotations

from collections.abc import Collection

from .fused import ALL_REGIONS, FusedModule, RegionName
from .modeling_switchyard import SwitchyardForCausalLM


def use_fused(model: SwitchyardForCausalLM, regions: Collection[RegionName] = ALL_REGIONS) -> None:
    """From now on these regions of the model are compiled kernels (model/fused.py), in training and in
    evaluation. Parameters and their names stay."""
    model.fused = frozenset(regions)
    for module in model.modules():
        if isinstance(module, FusedModule):
            module.fused = model.fused
