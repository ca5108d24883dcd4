"""Families of Hugging Face models: the names of their config keys here, and which have no effect.

One table for each model_type, with the published names and those of transformers 5.
"""

from collections.abc import Mapping as Readable
from dataclasses import dataclass
from typing import Any

from planner.strategy.schema import ModelShape

_SHARED = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "num_experts_per_tok",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
    "initializer_range",
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one model_type is read.

    names: their key -> ours. fixed: values of ours that hold for the family. defaults: of its config class
    (transformers 5.23) for keys that are left out, in our names. more: keys that are read, but belong to
    another section.
    """

    names: Readable[str, str]
    fixed: Readable[str, Any]
    defaults: Readable[str, Any]
    more: tuple[str, ...] = ()


def _family(names: dict[str, str], fixed: dict[str, Any], defaults: dict[str, Any]) -> Family:
    return Family(
        names={**{key: key for key in _SHARED}, **names},
        fixed={"expert": "swiglu", "aggregation": "none", **fixed},
        defaults={"hidden_act": "silu", "initializer_range": 0.02, **defaults},
    )


FAMILIES: dict[str, Family] = {
    "mixtral": _family(
        {"intermediate_size": "moe_intermediate_size", "num_local_experts": "num_experts"},
        {"norm_topk_prob": True},  # it always renormalizes
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "moe_intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "vocab_size": 32000,
        },
    ),
    "qwen3_moe": _family(
        {
            "intermediate_size": "intermediate_size",
            "moe_intermediate_size": "moe_intermediate_size",
            "num_experts": "num_experts",
            "num_local_experts": "num_experts",
            "norm_topk_prob": "norm_topk_prob",
        },
        {"qk_norm": "head"},
        {
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "vocab_size": 151936,
        },
    ),
    "olmoe": _family(
        {
            "intermediate_size": "moe_intermediate_size",
            "num_experts": "num_experts",
            "num_local_experts": "num_experts",
            "norm_topk_prob": "norm_topk_prob",
        },
        {"qk_norm": "projection"},
        {
            "num_hidden_layers": 16,
            "hidden_size": 2048,
            "moe_intermediate_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "vocab_size": 50304,
        },
    ),
    # Our own, written by save_pretrained (model/configuration_switchyard.py). Its other defaults are the
    # schema's.
    "switchyard": Family(
        names={key: key for key in ModelShape.model_fields if key != "init_from"},
        fixed={},
        defaults={
            "num_hidden_layers": 2,
            "num_experts": 8,
            "hidden_size": 64,
            "moe_intermediate_size": 128,
            "num_attention_heads": 4,
            "vocab_size": 4096,
        },
        more=("router_bias",),
    ),
}

# Keys without effect on the mathematics: about saving, generation and training of the published model.
HARMLESS = (
    *("architectures", "auto_map", "chunk_size_feed_forward", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type"),
    *("is_decoder", "is_encoder_decoder", "max_position_embeddings", "max_window_layers", "model_type"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "use_cache"),
    *("pretraining_tp", "router_aux_loss_coef"),
)
