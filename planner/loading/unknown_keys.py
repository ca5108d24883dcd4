"""Unknown keys of a strategy that other programs use: refused on purpose, or named differently here."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A key that is refused on purpose: the code, why, and what to change."""

    code: str
    why: str
    fix: str


_NOT_YET = "is not supported yet"

# pattern of a key (anywhere in the strategy) -> why it is refused
_REFUSED: tuple[tuple[str, Refusal], ...] = (
    (
        r".*(dropout|drop_path|jitter|noise|noisy).*|use_rts|top2_2nd_expert_sampling",
        Refusal(
            "SW291",
            "no dropout and no routing noise: the only randomness is initialization and data order",
            "remove the key",
        ),
    ),
    (
        r"sp|cp|(use_)?(sequence|context)_parallel(ism|_size|_degree)?|ulysses(_.*)?|ring_attention",
        Refusal(
            "SW292",
            "sequence and context parallelism are not supported yet",
            "remove the key; use tp, ep, pp and dp",
        ),
    ),
    (
        r"etp|expert_tp|(enable_)?expert_tensor_parallel(ism|_size|_degree)?",
        Refusal(
            "SW292",
            f"expert tensor parallelism {_NOT_YET}; ep distributes the experts",
            "remove the key; use ep",
        ),
    ),
    (
        r"mla|use_mla|q_lora_rank|kv_lora_rank|qk_nope_head_dim|qk_rope_head_dim|v_head_dim",
        Refusal(
            "SW293",
            f"multi-head latent attention (MLA) {_NOT_YET}",
            "remove the key; use num_key_value_heads",
        ),
    ),
    (
        r"(use_)?sliding_window",
        Refusal("SW293", f"sliding-window attention {_NOT_YET}", "remove the key"),
    ),
    (
        r"tie_word_embeddings|tied_embeddings",
        Refusal("SW293", f"tying embedding and head {_NOT_YET}", "remove the key"),
    ),
    (
        r"gradient_accumulation(_steps)?|accumulation(_steps)?",
        Refusal(
            "SW295",
            "gradient accumulation follows from global_batch and micro_batch",
            "remove the key; set training.micro_batch",
        ),
    ),
    (
        r"fp16|loss_scale",
        Refusal("SW294", f"fp16 with loss scaling {_NOT_YET}", "use training.precision: bf16"),
    ),
)

# name in other programs -> path here
_SYNONYMS = {
    "num_layers": "model.num_hidden_layers",
    "n_layers": "model.num_hidden_layers",
    "layers": "model.num_hidden_layers",
    "num_local_experts": "model.num_experts",
    "n_routed_experts": "model.num_experts",
    "experts": "model.num_experts",
    "n_shared_experts": "model.num_shared_experts",
    "first_k_dense_replace": "model.first_dense_layers",
    "top_k": "model.num_experts_per_tok",
    "topk": "model.num_experts_per_tok",
    "num_heads": "model.num_attention_heads",
    "num_kv_heads": "model.num_key_value_heads",
    "ffn_hidden_size": "model.moe_intermediate_size",
    "ep_degree": "parallel.ep",
    "ep_size": "parallel.ep",
    "expert_parallel": "parallel.ep",
    "expert_parallel_size": "parallel.ep",
    "expert_model_parallel_size": "parallel.ep",
    "tp_degree": "parallel.tp",
    "tp_size": "parallel.tp",
    "tensor_parallel": "parallel.tp",
    "tensor_parallel_size": "parallel.tp",
    "tensor_model_parallel_size": "parallel.tp",
    "pp_degree": "parallel.pp",
    "pp_size": "parallel.pp",
    "pipeline_parallel": "parallel.pp",
    "pipeline_parallel_size": "parallel.pp",
    "pipeline_model_parallel_size": "parallel.pp",
    "pipeline_model_parallel_layout": "parallel.layers_per_stage",
    "decoder_first_pipeline_num_layers": "parallel.layers_per_stage",
    "decoder_last_pipeline_num_layers": "parallel.layers_per_stage",
    "dp_degree": "parallel.dp",
    "dp_size": "parallel.dp",
    "data_parallel": "parallel.dp",
    "data_parallel_size": "parallel.dp",
    "zero": "parallel.zero_stage",
    "zero_optimization": "parallel.zero_stage",
    "stage": "parallel.zero_stage",
    "batch_size": "training.global_batch",
    "train_batch_size": "training.global_batch",
    "micro_batch_size": "training.micro_batch",
    "train_micro_batch_size_per_gpu": "training.micro_batch",
    "lr": "training.learning_rate",
    "seq_len": "training.seq_length",
    "dtype": "training.precision",
    "clip": "training.gradient_clipping",
    "aux_loss_coef": "training.balance_loss",
    "router_aux_loss_coef": "training.balance_loss",
}


def find_refusal(key: str) -> Refusal | None:
    """Why a key is refused on purpose; None for a key that is merely unknown."""
    return next((refusal for pattern, refusal in _REFUSED if re.fullmatch(pattern, key.lower())), None)


def find_synonym(key: str) -> str | None:
    """The path of the key that other programs call `key`."""
    return _SYNONYMS.get(key.lower())
