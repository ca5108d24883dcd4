"""What a Hugging Face config asks for that this model cannot do: keys that change the mathematics."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from planner.yaml12 import Mapping

_WRITE = "no strategy can express it yet; take another model"


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A key of the config and why it cannot be taken over."""

    key: str
    found: str
    expected: str
    fix: str = _WRITE


# key -> (values that change nothing, what it would do). None among them: the key may be null.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "tie_word_embeddings": ((False,), "the output has a matrix of its own"),
    "attention_bias": ((False,), "attention has no bias"),
    "mlp_bias": ((False,), "experts have no bias"),
    "attention_dropout": ((0, 0.0, None), "there is no dropout"),
    "hidden_dropout": ((0, 0.0, None), "there is no dropout"),
    "router_jitter_noise": ((0, 0.0, None), "routing has no noise"),
    "clip_qkv": ((None,), "queries, keys and values are not clipped"),
    "rope_scaling": ((None,), "rotary embeddings are not scaled"),
    "partial_rotary_factor": ((1, 1.0, None), "rotary embeddings turn whole heads"),
    "decoder_sparse_step": ((1,), "every layer after the leading dense ones has experts"),
    "quantization_config": ((None,), "weights are not quantized"),
    "pruned_heads": ((None,), "no head is cut"),
    "q_lora_rank": ((None,), "attention is not multi-head latent attention (MLA)"),
    "kv_lora_rank": ((None,), "attention is not multi-head latent attention (MLA)"),
    "add_cross_attention": ((False,), "there is no encoder"),
}


def unsupported(kind: str, config: Mapping, known: Container[str]) -> Iterator[Unsupported]:
    """Each key of a config that keeps a model of `kind` from being ours; `known` are read elsewhere."""
    entries = config.entries
    for key, entry in entries.items():
        value = entry.plain()
        if key in _NEUTRAL:
            neutral, means = _NEUTRAL[key]
            if not any(_same(value, legal) for legal in neutral):
                legal = " or ".join(dict.fromkeys(_json(legal) for legal in neutral))
                yield Unsupported(
                    key=key, found=f"{_json(value)} is not supported: here {means}", expected=legal
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
                found=f"what this key does in a {kind} model is not known here",
                expected="the keys of published configs",
                fix="remove it if it does not change the mathematics",
            )
    yield from _window(kind, config)


def _same(value: Any, legal: Any) -> bool:
    return bool(value == legal) and isinstance(value, bool) == isinstance(legal, bool)


def _json(value: Any) -> str:
    text = {"None": "null", "True": "true", "False": "false"}
    return text.get(str(value), str(value))


def _window(kind: str, config: Mapping) -> Iterator[Unsupported]:
    """Mixtral slides where a window is named, Qwen3-MoE only where it is also switched on."""
    plain = {key: entry.plain() for key, entry in config.entries.items()}
    is_on = plain.get("use_sliding_window", kind != "qwen3_moe")
    if plain.get("sliding_window") is not None and is_on:
        yield Unsupported(
            key="sliding_window",
            found=f"{plain['sliding_window']} is not supported: here every token sees all before it",
            expected="null, or use_sliding_window: false",
        )
    types = plain.get("layer_types") or ()
    if any(kind != "full_attention" for kind in types):
        yield Unsupported(
            key="layer_types", found="not every layer has full attention", expected="full_attention"
        )


def _rope(value: Any) -> Iterator[Unsupported]:
    is_plain = isinstance(value, dict) and value.get("rope_type", "default") == "default"
    if value is not None and not (is_plain and set(value) <= {"rope_type", "rope_theta"}):
        yield Unsupported(
            key="rope_parameters",
            found=f"{value} is not supported: rotary embeddings are not scaled here",
            expected="{rope_type: default, rope_theta: a number}",
        )


def _dense_layers(value: Any) -> Iterator[Unsupported]:
    if value is not None and tuple(value) != tuple(range(len(value))):
        yield Unsupported(
            key="mlp_only_layers",
            found=f"{list(value)} are not the leading layers",
            expected="[] or the first layers: [0], [0, 1] …",
        )
