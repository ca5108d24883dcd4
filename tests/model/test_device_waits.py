"""How often the layers make the host wait for the device: where a value is read, a GPU's queue runs empty."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from model.collectives import ModelGroups
from tests.support.model_cases import config_of, make_model, tokens
from tests.support.model_layouts import group_of
from tests.support.ranks import run_ranks

# What reads a tensor's values into Python, or gives a result whose size depends on them.
READS = {
    "__bool__",
    "__float__",
    "__index__",
    "__int__",
    "cpu",
    "item",
    "nonzero",
    "numpy",
    "tolist",
    "unique",
}


class Waits(TorchFunctionMode):
    def __init__(self) -> None:
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        has_mask = name == "__getitem__" and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        has_counts = name == "repeat_interleave" and isinstance(args[1], torch.Tensor)
        if name in READS or has_mask or has_counts:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _waits(config: dict[str, Any], ep: int) -> tuple[list[str], list[str]]:
    """Of the layers' forward pass, and of their backward pass."""
    groups = ModelGroups(ep=group_of(ep)) if ep > 1 else ModelGroups()
    model = make_model(config_of(**config), torch.float32, groups=groups)
    ids, _ = tokens(2, 8)
    x = model.embed(ids)
    model.run_layers(x, None)
    with Waits() as forward:
        y, sums = model.run_layers(x, None)
    loss = y.square().sum() + sums.aux_loss + sums.z_loss
    with Waits() as backward:
        loss.backward()
    if ep > 1:
        dist.barrier()
    return forward.found, backward.found


def _all_waits(configs: list[dict[str, Any]]) -> list[tuple[list[str], list[str]]]:
    return [_waits(config, ep=2) for config in configs]


def _config(**changes: Any) -> dict[str, Any]:
    # Sizes that grouped products take.
    sizes = {"hidden_size": 32, "moe_intermediate_size": 32, "num_experts": 8, "num_key_value_heads": 4}
    return {**sizes, "expert": "swiglu", **changes}


DROPLESS = [_config(num_experts_per_tok=top_k) for top_k in (1, 2, 4)]
CAPACITY = [_config(num_experts_per_tok=top_k, dispatch="capacity", capacity_factor=1.0) for top_k in (1, 2)]


def test_between_ranks_only_the_sizes_are_read_once_a_layer() -> None:
    num_layers = config_of(**DROPLESS[0]).num_hidden_layers
    for waits in run_ranks(2, _all_waits, DROPLESS + CAPACITY):
        assert waits == [(["tolist"] * num_layers, [])] * len(DROPLESS + CAPACITY)


@pytest.mark.parametrize("config", DROPLESS)
def test_in_one_process_nothing_is_read(config: dict[str, Any]) -> None:
    assert _waits(config, ep=1) == ([], [])


@pytest.mark.parametrize("config", CAPACITY)
def test_in_one_process_with_drops_the_number_of_rows_is_read(config: dict[str, Any]) -> None:
    num_layers = config_of(**config).num_hidden_layers
    assert _waits(config, ep=1) == (["__int__"] * num_layers, [])
