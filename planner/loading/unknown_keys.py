"""Keys that people know from elsewhere: what is refused on purpose, and what is called otherwise here."""

import re

_RANDOMNESS = (
    "randomness is initialisation and data order, nothing else: no dropout, no routing noise",
    "remove the key",
)
_NOT_YET = "is not supported yet"

# pattern of a key (anywhere in the strategy) -> (what it asks for and why not, what to change)
_REFUSED: tuple[tuple[str, str, str], ...] = (
    (r".*(dropout|drop_path|jitter|noise|noisy).*|use_rts|top2_2nd_expert_sampling", *_RANDOMNESS),
    (
        r"sp|cp|(use_)?(sequence|context)_parallel(ism|_size|_degree)?|ulysses(_.*)?|ring_attention",
        f"sequence and context parallelism {_NOT_YET}",
        "remove the key; use tp, ep, pp and dp",
    ),
    (
        r"etp|expert_tp|(enable_)?expert_tensor_parallel(ism|_size|_degree)?",
        f"expert tensor parallelism {_NOT_YET}: experts are split over ep, never over tp",
        "remove the key; use ep",
    ),
    (
        r"mla|use_mla|q_lora_rank|kv_lora_rank|qk_nope_head_dim|qk_rope_head_dim|v_head_dim",
        f"multi-head latent attention (MLA) {_NOT_YET}",
        "remove the key; use num_key_value_heads",
    ),
    (r"(use_)?sliding_window", f"sliding-window attention {_NOT_YET}", "remove the key"),
    (r"tie_word_embeddings|tied_embeddings", f"sharing embedding and head {_NOT_YET}", "remove the key"),
    (
        r"gradient_accumulation(_steps)?|accumulation(_steps)?",
        "accumulation follows from global_batch and micro_batch",
        "remove the key; set training.micro_batch",
    ),
    (r"fp16|loss_scale", f"fp16 with loss scaling {_NOT_YET}", "use training.precision: bf16"),
)

# what others call it -> its path here
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
    "tp_degree": "parallel.tp",
    "pp_degree": "parallel.pp",
    "dp_degree": "parallel.dp",
    "zero": "parallel.zero_stage",
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


def refusal(key: str) -> tuple[str, str] | None:
    """Why a key is refused on purpose and what to change, or None for a key that is only unknown."""
    for pattern, why, fix in _REFUSED:
        if re.fullmatch(pattern, key.lower()):
            return why, fix
    return None


def synonym(key: str) -> str | None:
    """The path of the key that other programs call `key`."""
    return _SYNONYMS.get(key.lower())
