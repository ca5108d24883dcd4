"""Shape of a model as other programs write it: widths of experts, capacity."""

from typing import Any

from planner.loading.foreign_meaning import Find, Meaning, count, number, shown, write

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}
_GATED = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}


def activation(value: Any, find: Find) -> Meaning:
    """NeMo's names of gated units say the activation and the kind of expert."""
    path, word = "model.hidden_act", str(value).lower()
    if value is None or word in _ACTIVATIONS:
        return write(path, _ACTIVATIONS.get(word))
    gated = _GATED.get(word.removeprefix("fast-"))
    if gated is None:
        return Meaning(asks={path: f"not {shown(value)}"})
    return Meaning(writes={path: gated, "model.expert": "swiglu"})


def capacity(value: Any, find: Find) -> Meaning:
    """A capacity factor means that tokens are dropped beyond it."""
    if value is None or (number(value) is not None and value <= 0):
        return Meaning(no_effect="tokens are not dropped here either")
    return Meaning(writes={"model.dispatch": "capacity", "model.capacity_factor": value})


def expert_width(value: Any, find: Find) -> Meaning:
    """Megatron's ffn_hidden_size: of experts, unless moe_ffn_hidden_size is written: then of dense layers."""
    if find("moe_ffn_hidden_size") is None and find("model.moe_intermediate_size") in (None, value):
        return write("model.moe_intermediate_size", value)
    if not count(find("model.first_dense_layers")):
        return Meaning(no_effect="no layer is dense (model.first_dense_layers)")
    return write("model.intermediate_size", value)


def shared_width(value: Any, find: Find) -> Meaning:
    """Width of all shared experts together."""
    path, each = "model.num_shared_experts", count(find("model.moe_intermediate_size"))
    if value is None or value == 0:
        return Meaning(no_effect="no expert is shared here either")
    width = count(value)
    if width is None or each is None or width % each:
        return Meaning(asks={path: "the shared width / moe_intermediate_size"})
    return Meaning(writes={path: width // each})
