"""Refused keys: names in other programs of what is not supported here on purpose, and why."""

import re
from dataclasses import dataclass
from typing import Any

_NOT_YET = "is not supported yet"


@dataclass(frozen=True)
class Refusal:
    """A key that is refused on purpose: the code, why, and what the training is without it.

    instead: the key that decides it here, of which the value then says what the training is.
    """

    code: str
    why: str
    without: str = ""
    instead: str = ""


# pattern of a key (anywhere in the strategy) -> why it is refused
_REFUSED: tuple[tuple[str, Refusal], ...] = (
    (
        r".*(dropout|drop_path|jitter|noise|noisy).*|use_rts|top2_2nd_expert_sampling",
        Refusal(
            "SW291",
            "no dropout and no routing noise: the only randomness is initialization and data order",
            "the training then has none",
        ),
    ),
    (
        r"sp|(cp|sp|ulysses_sp)(_size|_degree)?|(use_)?(sequence|context)_parallel(ism|_size|_degree)?|ulysses(_.*)?|ring_attention",
        Refusal(
            "SW292",
            "sequence and context parallelism are not supported yet",
            "sequences then stay on one rank, and only tp, ep, pp and dp split the work",
        ),
    ),
    (
        r"etp|expert_tp|(enable_)?expert_tensor_parallel(ism|_size|_degree)?",
        Refusal(
            "SW292",
            f"expert tensor parallelism {_NOT_YET}; ep distributes the experts",
            "an expert is then on one rank",
        ),
    ),
    (
        r"mla|use_mla|multi_latent_attention|q_lora_rank|kv_lora_rank|qk_nope_head_dim|qk_rope_head_dim|v_head_dim",
        Refusal(
            "SW293",
            f"multi-head latent attention (MLA) {_NOT_YET}",
            "attention then has num_key_value_heads: another model",
        ),
    ),
    (
        r"(use_)?sliding_window",
        Refusal(
            "SW293",
            f"sliding-window attention {_NOT_YET}",
            "every token then attends to all earlier ones: another model",
        ),
    ),
    (
        r"tie_word_embeddings|tied_embeddings",
        Refusal(
            "SW293",
            f"tying embedding and head {_NOT_YET}",
            "the output matrix is then separate: another model",
        ),
    ),
    (
        r"fp16|loss_scale|initial_scale_power|loss_scale_window|hysteresis|min_loss_scale",
        Refusal("SW294", f"fp16 with loss scaling {_NOT_YET}", instead="training.precision"),
    ),
)


def find_refusal(key: str) -> Refusal | None:
    """Why a key is refused on purpose; None for a key that is merely unknown."""
    plain = re.sub(r"^(megatron_lm|parallelism_config)_", "", key.lower().lstrip("-").replace("-", "_"))
    return next((refusal for pattern, refusal in _REFUSED if re.fullmatch(pattern, plain)), None)


def is_off(key: str, value: Any) -> bool:
    """Whether a refused key is written with the value that means that it is not used."""
    if isinstance(value, dict):
        return value.get("enabled", None) is False
    is_degree = re.search(r"parallel|^(sp|cp|etp|expert_tp)$|_(size|degree)$", key.lower()) is not None
    return value is None or value is False or value == 0 or (is_degree and value is not True and value == 1)
