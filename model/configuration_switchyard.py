"""Hugging Face configuration of a Switchyard model: its shape, router and initialization."""

from __future__ import annotations

import difflib
import math
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

CHOICES = {
    "expert": ("mlp", "swiglu"),
    "hidden_act": ("silu", "gelu", "relu"),
    "qk_norm": ("none", "head", "projection"),
    "aggregation": ("none", "linear"),
    "dispatch": ("dropless", "capacity", "deepspeed"),
}


class SwitchyardConfig(PreTrainedConfig):
    """Shape of a decoder with Mixture-of-Experts layers; the names are the keys of a strategy's `model`.

    None means: `num_key_value_heads` = `num_attention_heads`, `head_dim` = `hidden_size` /
    `num_attention_heads`, `norm_topk_prob` = only for `num_experts_per_tok` > 1.
    `max_position_embeddings` is the training length: information for tools, not a limit.
    `router_bias`: experts are chosen by score + a bias that training steers (loss-free balancing).
    The first `first_dense_layers` layers have a dense MLP of `intermediate_size` instead of experts.

    Raises:
        ValueError: for values that contradict each other; the text lists every fault and what is legal.
    """

    model_type = "switchyard"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # Trainer adds a list to it

    num_hidden_layers: int = 2
    num_experts: int = 8
    num_experts_per_tok: int = 1
    norm_topk_prob: bool | None = None
    hidden_size: int = 64
    moe_intermediate_size: int = 128
    expert: str = "mlp"
    hidden_act: str = "silu"
    num_shared_experts: int = 0
    first_dense_layers: int = 0
    intermediate_size: int | None = None
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    qk_norm: str = "none"
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    vocab_size: int = 4096
    aggregation: str = "none"
    dispatch: str = "dropless"
    capacity_factor: float | None = None
    initializer_range: float = 0.02
    embedding_std: float = 0.5
    router_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    output_router_logits: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and _is_count(self.num_attention_heads):
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"head_dim is not given and num_attention_heads ({self.num_attention_heads}) does not "
                    f"divide hidden_size ({self.hidden_size}); give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        self._take_rope_parameters(kwargs)
        faults = [*_unknown_keys(self, kwargs), *_faults(self)]
        if faults:
            raise ValueError("not a legal SwitchyardConfig:\n  " + "\n  ".join(faults))
        super().__post_init__(**kwargs)

    def _take_rope_parameters(self, kwargs: dict[str, Any]) -> None:
        """Accepts transformers 5's spelling of `rope_theta`; other kinds of RoPE are not supported."""
        for key in ("rope_parameters", "rope_scaling"):
            given = kwargs.pop(key, None)
            if not given:
                continue
            legal = {"rope_theta", "rope_type"}
            if given.get("rope_type", "default") != "default" or set(given) - legal:
                raise ValueError(
                    f"{key} {given} is not supported; legal: {{rope_type: default, rope_theta: number}}"
                )
            self.rope_theta = given.get("rope_theta", self.rope_theta)

    @property
    def normalizes_gates(self) -> bool:
        """Whether the gates of a token's experts are divided by their sum."""
        return self.num_experts_per_tok > 1 if self.norm_topk_prob is None else self.norm_topk_prob

    def is_dense_layer(self, layer: int) -> bool:
        return layer < self.first_dense_layers


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )


def _unknown_keys(config: SwitchyardConfig, kwargs: dict[str, Any]) -> list[str]:
    """Misspelled keys. Hugging Face passes keys of its own through here, so only near misses are faults."""
    names = [field.name for field in fields(config)]
    near = {key: difflib.get_close_matches(key, names, n=1, cutoff=0.85) for key in kwargs}
    return [f"{key} is unknown; did you mean {match[0]}?" for key, match in near.items() if match]


def _faults(config: SwitchyardConfig) -> list[str]:
    faults = []
    counts = (
        "num_hidden_layers",
        "num_experts",
        "num_experts_per_tok",
        "hidden_size",
        "moe_intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    )
    for name in counts:
        if not _is_count(getattr(config, name)):
            faults.append(f"{name} is {getattr(config, name)!r}; legal: an integer from 1")
    for name in ("num_shared_experts", "first_dense_layers"):
        value = getattr(config, name)
        if value != 0 and not _is_count(value):
            faults.append(f"{name} is {value!r}; legal: an integer from 0")
    for name in ("rope_theta", "rms_norm_eps", "initializer_range", "embedding_std"):
        if not _is_positive(getattr(config, name)):
            faults.append(f"{name} is {getattr(config, name)!r}; legal: a number above 0")
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            faults.append(f"{name} is {getattr(config, name)!r}; legal: {', '.join(choices)}")
    if faults:
        return faults  # the checks below compare well-formed values
    if config.num_experts_per_tok > config.num_experts:
        faults.append(
            f"num_experts_per_tok is {config.num_experts_per_tok}; legal: 1 to num_experts "
            f"({config.num_experts})"
        )
    assert config.num_key_value_heads is not None, "None was filled in"
    assert config.head_dim is not None, "None was filled in"
    if config.num_attention_heads % config.num_key_value_heads:
        divisors = [
            n for n in range(1, config.num_attention_heads + 1) if config.num_attention_heads % n == 0
        ]
        faults.append(
            f"num_key_value_heads is {config.num_key_value_heads}; legal: a divisor of num_attention_heads "
            f"({config.num_attention_heads}): {', '.join(map(str, divisors))}"
        )
    if config.head_dim % 2:
        faults.append(f"head_dim is {config.head_dim}; legal: an even number (RoPE rotates pairs)")
    if config.first_dense_layers > config.num_hidden_layers:
        faults.append(
            f"first_dense_layers is {config.first_dense_layers}; legal: 0 to num_hidden_layers "
            f"({config.num_hidden_layers})"
        )
    if config.first_dense_layers > 0 and not _is_count(config.intermediate_size):
        faults.append(
            f"intermediate_size is {config.intermediate_size!r}; legal with first_dense_layers "
            f"{config.first_dense_layers}: an integer from 1"
        )
    if config.dispatch == "capacity" and not _is_positive(config.capacity_factor):
        faults.append(
            f"capacity_factor is {config.capacity_factor!r}; legal with dispatch capacity: a number above 0"
        )
    if config.dispatch == "deepspeed" and config.norm_topk_prob is not None:
        faults.append(
            f"norm_topk_prob is {config.norm_topk_prob}; legal with dispatch deepspeed: null "
            "(it normalizes gates for more than one expert per token, and only then)"
        )
    if config.tie_word_embeddings:
        faults.append("tie_word_embeddings is true; legal: false (the LM head has its own matrix)")
    return faults
