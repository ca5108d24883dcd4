"""Rules on the model, its dispatch, the batch and the course of a training."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.layout import widest_size
from planner.rules.legal_values import broken, divisors, listed, nearest
from planner.strategy.schema import Strategy

# Model


def top_k_within_experts(s: Strategy) -> Iterator[Problem]:
    k, num_experts = s.model.num_experts_per_tok, s.model.num_experts
    if k > num_experts:
        yield broken(
            "model.num_experts_per_tok",
            f"{k} experts a token, but there are {num_experts} (model.num_experts)",
            f"1 to {num_experts}",
            f"set model.num_experts_per_tok to {num_experts} or less",
        )


def kv_heads_divide_heads(s: Strategy) -> Iterator[Problem]:
    heads, kv_heads = s.model.num_attention_heads, s.model.num_key_value_heads
    if heads % kv_heads:
        yield broken(
            "model.num_key_value_heads",
            f"{kv_heads} does not divide model.num_attention_heads ({heads})",
            f"a divisor of {heads}: {listed(divisors(heads))}",
            f"set model.num_key_value_heads to {nearest(divisors(heads), kv_heads)}",
        )


def head_dim_follows(s: Strategy) -> Iterator[Problem]:
    hidden, heads = s.model.hidden_size, s.model.num_attention_heads
    if "head_dim" not in s.model.model_fields_set and hidden % heads:
        yield broken(
            "model.head_dim",
            f"cannot follow: model.hidden_size ({hidden}) is no multiple of num_attention_heads ({heads})",
            "a head_dim, or heads that divide the hidden size",
            f"write model.head_dim, or set num_attention_heads to {nearest(divisors(hidden), heads)}",
        )


def head_dim_is_even(s: Strategy) -> Iterator[Problem]:
    head_dim = s.model.head_dim
    if "head_dim" not in s.model.model_fields_set and s.model.hidden_size % s.model.num_attention_heads:
        return  # it could not be derived, which head_dim_follows says
    if head_dim % 2:
        yield broken(
            "model.head_dim",
            f"{head_dim} is odd, but rotary embeddings turn pairs of dimensions",
            "an even number",
            f"set model.head_dim to {head_dim + 1}",
        )


def dense_layers_within_model(s: Strategy) -> Iterator[Problem]:
    dense, layers = s.model.first_dense_layers, s.model.num_hidden_layers
    if dense > layers:
        yield broken(
            "model.first_dense_layers",
            f"{dense} dense layers, but there are {layers} layers (model.num_hidden_layers)",
            f"0 to {layers}",
            f"set model.first_dense_layers to {layers} or less",
        )


def dense_layers_have_a_size(s: Strategy) -> Iterator[Problem]:
    if s.model.first_dense_layers > 0 and s.model.intermediate_size is None:
        yield broken(
            "model.intermediate_size",
            f"is missing, but the first {s.model.first_dense_layers} layers are dense",
            "the width of their feed-forward network",
            f"write model.intermediate_size, for example {4 * s.model.hidden_size}",
        )


def capacity_has_a_factor(s: Strategy) -> Iterator[Problem]:
    dispatch, factor = s.model.dispatch, s.model.capacity_factor
    if dispatch == "capacity" and factor is None:
        yield broken(
            "model.capacity_factor",
            "is missing, but model.dispatch is capacity",
            "a number above 0; 1.0 is room for perfectly balanced tokens",
            "write model.capacity_factor: 1.25",
        )
    elif dispatch != "capacity" and factor is not None:
        yield broken(
            "model.capacity_factor",
            f"{factor:g} would have no effect with model.dispatch {dispatch}",
            "null unless model.dispatch is capacity",
            "remove model.capacity_factor, or set model.dispatch to capacity",
        )


# Stock dispatch: DeepSpeed's own gate gives out neither router logits nor masks (sharded_moe.py of 0.19.8).


def stock_dispatch_has_plain_balance(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance != "loss":
        yield _stock("training.balance", s.training.balance, "loss", "it has no place for a bias")


def stock_dispatch_has_no_balance_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.balance_loss != 0:
        yield _stock(
            "training.balance_loss", f"{s.training.balance_loss:g}", "0", "it has no loss a sequence"
        )


def stock_dispatch_has_no_z_loss(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.training.z_loss != 0:
        yield _stock("training.z_loss", f"{s.training.z_loss:g}", "0", "it gives out no router logits")


def stock_dispatch_renormalizes_by_itself(s: Strategy) -> Iterator[Problem]:
    if s.model.dispatch == "deepspeed" and s.model.norm_topk_prob is not None:
        value = str(s.model.norm_topk_prob).lower()
        yield _stock("model.norm_topk_prob", value, "null", "it renormalises for k > 1 and never for k = 1")


def _stock(path: str, value: str, legal: str, why: str) -> Problem:
    return broken(
        path,
        f"{value} with model.dispatch deepspeed: DeepSpeed's own gate cannot do it ({why})",
        legal,
        f"set {path} to {legal}, or model.dispatch to dropless",
    )


def stock_dispatch_halves_tokens(s: Strategy) -> Iterator[Problem]:
    tp = s.parallel.tp
    tokens = s.training.micro_batch * s.training.seq_length
    small_divisors = tuple(d for d in range(1, 65) if tokens % d == 0)
    if s.model.dispatch == "deepspeed" and s.parallel.placement == "colocated" and tokens % tp:
        yield broken(
            "parallel.tp",
            f"{tp} does not divide the {tokens} tokens of a micro-batch, as model.dispatch deepspeed needs",
            f"a divisor of micro_batch × seq_length: {listed(small_divisors)}",
            "change training.seq_length or parallel.tp, or set model.dispatch to dropless",
        )


def stock_dispatch_fills_validation(s: Strategy) -> Iterator[Problem]:
    sequences = s.training.micro_batch * widest_size(s)
    if s.model.dispatch == "deepspeed" and s.data.validation_sequences % sequences:
        yield broken(
            "data.validation_sequences",
            f"{s.data.validation_sequences} would need padding, which model.dispatch deepspeed cannot mask",
            f"a multiple of micro_batch × data-parallel size: {sequences}",
            f"set data.validation_sequences to {-(-s.data.validation_sequences // sequences) * sequences}",
        )


# Training and output


def batch_is_whole(s: Strategy) -> Iterator[Problem]:
    widest, micro_batch, global_batch = widest_size(s), s.training.micro_batch, s.training.global_batch
    sequences = micro_batch * widest
    if global_batch % sequences:
        below = global_batch // sequences * sequences
        near = f"{below} or {below + sequences}" if below else str(sequences)
        yield broken(
            "training.global_batch",
            f"{global_batch} is no multiple of micro_batch × data-parallel size ({micro_batch} × {widest})",
            f"a multiple of {sequences}, so that accumulation is whole",
            f"set training.global_batch to {near}, or change training.micro_batch",
        )


def learning_rates_are_ordered(s: Strategy) -> Iterator[Problem]:
    low, high = s.training.min_learning_rate, s.training.learning_rate
    if low > high:
        yield broken(
            "training.min_learning_rate",
            f"{low:g} is above training.learning_rate ({high:g})",
            f"0 to {high:g}",
            f"set training.min_learning_rate to {high / 10:g}",
        )


def warmup_within_schedule(s: Strategy) -> Iterator[Problem]:
    warmup, horizon = s.training.warmup_steps, s.training.schedule_steps
    if horizon is not None and warmup > horizon:
        yield broken(
            "training.warmup_steps",
            f"{warmup} is more than training.schedule_steps ({horizon})",
            f"0 to {horizon}",
            f"set training.warmup_steps to {horizon // 10}",
        )


def branch_has_a_source(s: Strategy) -> Iterator[Problem]:
    if s.output.branch and s.output.resume in ("auto", "never", "require"):
        yield broken(
            "output.resume",
            f"{s.output.resume}, but output.branch starts another course from a run's folder",
            "the folder of a run",
            "set output.resume to that folder, or output.branch to false",
        )


RULES = (
    top_k_within_experts,
    kv_heads_divide_heads,
    head_dim_follows,
    head_dim_is_even,
    dense_layers_within_model,
    dense_layers_have_a_size,
    capacity_has_a_factor,
    stock_dispatch_has_plain_balance,
    stock_dispatch_has_no_balance_loss,
    stock_dispatch_has_no_z_loss,
    stock_dispatch_renormalizes_by_itself,
    stock_dispatch_halves_tokens,
    stock_dispatch_fills_validation,
    batch_is_whole,
    learning_rates_are_ordered,
    warmup_within_schedule,
    branch_has_a_source,
)
