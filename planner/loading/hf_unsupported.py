"""Unsupported keys of a Hugging Face config: those that change the mathematics of the model."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from planner.strategy.field_types import show
from planner.units import shorten
from planner.yaml12 import Mapping

_FIX = "choose another model: no strategy can express this one yet"
_UNQUANTIZED = (
    "remove quantization_config: the shape of the model stays the same; weights to start from "
    "(model.init_from) then have to be those of its bf16 release"
)


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A key of the config and why it cannot be converted."""

    key: str
    found: str
    expected: str
    fix: str = _FIX
    code: str = "SW153"


# key -> (values with no effect, the behavior here). None among the values: the key may be null.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "tie_word_embeddings": ((False,), "the output matrix is separate from the embedding"),
    "attention_bias": ((False,), "attention has no bias"),
    "mlp_bias": ((False,), "experts have no bias"),
    "attention_dropout": ((0, 0.0, None), "there is no dropout"),
    "hidden_dropout": ((0, 0.0, None), "there is no dropout"),
    "router_jitter_noise": ((0, 0.0, None), "routing has no noise"),
    "clip_qkv": ((None,), "queries, keys and values are not clipped"),
    "rope_scaling": ((None,), "rotary embeddings are not scaled"),
    "partial_rotary_factor": ((1, 1.0, None), "rotary embeddings cover the full head_dim"),
    "decoder_sparse_step": ((1,), "every layer after the leading dense ones has experts"),
    "quantization_config": ((None,), "weights are not quantized"),
    "pruned_heads": ((None,), "no head is pruned"),
    "q_lora_rank": ((None,), "attention is not multi-head latent attention (MLA)"),
    "kv_lora_rank": ((None,), "attention is not multi-head latent attention (MLA)"),
    "qkv_bias": ((False,), "attention has no bias"),
    "shared_expert_intermediate_size": ((0, None), "there is no shared expert of a size of its own"),
    "add_cross_attention": ((False,), "there is no encoder"),
}

# The same of one family's configs.
_NEUTRAL_OF: dict[tuple[str, str], tuple[tuple[Any, ...], str]] = {
    ("qwen3_moe", "use_qk_norm"): ((True, None), "queries and keys are normed per head"),
    ("mixtral", "use_qk_norm"): ((False, None), "queries and keys are not normed"),
}


def find_unsupported(kind: str, config: Mapping, known: Container[str]) -> Iterator[Unsupported]:
    """Each key of a config that this model cannot reproduce; `known` are read elsewhere."""
    entries = config.entries
    for key, entry in entries.items():
        value = entry.plain()
        if (usual := _NEUTRAL_OF.get((kind, key), _NEUTRAL.get(key))) is not None and key not in known:
            neutral, means = usual
            if not any(_same(value, legal) for legal in neutral):
                legal = " or ".join(dict.fromkeys(_json(legal) for legal in neutral))
                yield Unsupported(
                    key=key,
                    found=f"{_shown(key, value)} is not supported: {means}",
                    expected=legal,
                    fix=_UNQUANTIZED if key == "quantization_config" else _without(key, neutral[0]),
                )
        elif key == "mlp_only_layers":
            yield from _dense_layers(value)
        elif key == "rope_parameters":
            yield from _rope(value)
        elif key in ("sliding_window", "use_sliding_window", "layer_types"):
            continue  # together, below
        elif key not in known and not key.startswith("_"):
            yield Unsupported(
                key=key,
                code="SW154",
                found=f"unknown key of a {kind} config; it may change the mathematics",
                expected="the keys of published configs",
                fix="remove it if it does not change the mathematics",
            )
    yield from _window(kind, config)


# keys of what a strategy leaves out without becoming another model
_LEFT_OUT = ("quantization_config", "attention_dropout", "hidden_dropout", "router_jitter_noise")


_MLA = "attention is multi-head latent attention (MLA)"
_LINEAR = "some layers have linear attention or a state space in place of attention"
# Families whose layers are none of a strategy's, also where a config leaves the keys that say so to their
# defaults (transformers 5.17).
_OTHER_LAYERS: dict[str, str] = {
    **dict.fromkeys(
        (
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "kimi_k25", "minicpm3"),
            *("longcat_flash", "glm4_moe_lite", "glm_moe_dsa", "youtu"),
        ),
        _MLA,
    ),
    **dict.fromkeys(
        (
            *("qwen3_next", "qwen3_5_moe", "jamba", "bamba", "nemotron_h", "granitemoehybrid", "minimax"),
            *("kimi_linear", "zamba", "zamba2", "lfm2_moe"),
        ),
        _LINEAR,
    ),
    "gpt_oss": "attention has sinks and biases, and experts have biases",
    "llama4_text": "some layers attend within chunks, without rotary embeddings in others",
    "llama4": "some layers attend within chunks, without rotary embeddings in others",
    "dbrx": "its norms are LayerNorms, and queries, keys and values are clipped",
    "phimoe": "its norms are LayerNorms, and its router is a sparse mixer",
    "switch_transformers": "it has an encoder",
    "nllb-moe": "it has an encoder",
}


def find_missing_features(kind: str, config: Mapping) -> tuple[str, ...]:
    """Keys of a config, of whatever family, or the family, that make it a model no strategy can express."""
    others = frozenset(config.entries) - set(_NEUTRAL)
    found = (fault for fault in find_unsupported(kind, config, others) if fault.key not in _LEFT_OUT)
    features = tuple(f"{fault.key} ({fault.found.rpartition(': ')[2]})" for fault in found)
    return features or ((f"{kind} ({_OTHER_LAYERS[kind]})",) if kind in _OTHER_LAYERS else ())


def _same(value: Any, legal: Any) -> bool:
    return bool(value == legal) and isinstance(value, bool) == isinstance(legal, bool)


def _without(key: str, neutral: Any) -> str:
    if "dropout" in key or "jitter" in key:
        return f"write {key}: {_json(neutral)}: published weights are the same, and training has none"
    return f"choose another model, or write {key}: {_json(neutral)}, which is another model than this one"


def _shown(key: str, value: Any) -> str:
    """A value; of a quantization, which lists hundreds of modules, its method."""
    if key == "quantization_config" and isinstance(value, dict) and "quant_method" in value:
        return f"quant_method {shorten(str(value['quant_method']))}"
    return shorten(_json(value))


def _json(value: Any) -> str:
    text = {"None": "null", "True": "true", "False": "false"}
    return text.get(str(value), str(value))


def _window(kind: str, config: Mapping) -> Iterator[Unsupported]:
    """Mixtral uses a window wherever one is given, Qwen3-MoE only with use_sliding_window."""
    plain = {key: entry.plain() for key, entry in config.entries.items()}
    is_on = plain.get("use_sliding_window", kind != "qwen3_moe")
    if plain.get("sliding_window") is not None and is_on:
        yield Unsupported(
            key="sliding_window",
            found=f"{shorten(str(plain['sliding_window']))} is not supported: every token attends to all "
            "earlier ones",
            expected="null, or use_sliding_window: false",
        )
    types = plain.get("layer_types") or ()
    if not isinstance(types, tuple) or any(kind != "full_attention" for kind in types):
        yield Unsupported(
            key="layer_types", found="not every layer has full attention", expected="full_attention"
        )


def _rope(value: Any) -> Iterator[Unsupported]:
    is_plain = isinstance(value, dict) and value.get("rope_type", "default") == "default"
    if value is not None and not (is_plain and set(value) <= {"rope_type", "rope_theta"}):
        yield Unsupported(
            key="rope_parameters",
            found=f"{shorten(str(value))} is not supported: rotary embeddings are not scaled",
            expected="{rope_type: default, rope_theta: a number}",
        )


def _dense_layers(value: Any) -> Iterator[Unsupported]:
    if value is None:
        return
    if not isinstance(value, tuple) or value != tuple(range(len(value))):
        shown = shorten(str(list(value))) if isinstance(value, tuple) else show(value)
        yield Unsupported(
            key="mlp_only_layers",
            found=f"{shown} are not the leading layers",
            expected="[] or the first layers: [0], [0, 1] …",
        )
