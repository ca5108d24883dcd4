"""Rules on the model: heads, experts, dense layers, capacity."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.legal_values import divisors, find_nearest, join_numbers
from planner.strategy.schema import Strategy


def top_k_within_experts(s: Strategy) -> Iterator[Problem]:
    k, num_experts = s.model.num_experts_per_tok, s.model.num_experts
    if k > num_experts:
        yield Problem(
            code="SW221",
            path="model.num_experts_per_tok",
            found=f"{k} experts per token, but model.num_experts is {num_experts}",
            expected=f"1 to {num_experts}",
            fix=f"set model.num_experts_per_tok to {num_experts}, or less",
        )


def kv_heads_divide_heads(s: Strategy) -> Iterator[Problem]:
    heads, kv_heads = s.model.num_attention_heads, s.model.num_key_value_heads
    if heads % kv_heads:
        yield Problem(
            code="SW222",
            path="model.num_key_value_heads",
            found=f"{kv_heads} does not divide model.num_attention_heads ({heads})",
            expected=f"a divisor of {heads}: {join_numbers(divisors(heads))}",
            fix=f"set model.num_key_value_heads to {find_nearest(divisors(heads), kv_heads)}",
        )


def head_dim_is_derivable(s: Strategy) -> Iterator[Problem]:
    hidden, heads = s.model.hidden_size, s.model.num_attention_heads
    if "head_dim" not in s.model.model_fields_set and hidden % heads:
        even = tuple(d for d in divisors(hidden) if hidden // d % 2 == 0)  # head_dim has to be even
        yield Problem(
            code="SW223",
            path="model.head_dim",
            found=f"cannot be derived: model.hidden_size ({hidden}) is not divisible by "
            f"num_attention_heads ({heads})",
            expected="an explicit head_dim, or num_attention_heads that divides hidden_size",
            fix=f"set model.num_attention_heads to {find_nearest(even, heads)}, or write model.head_dim"
            if even
            else f"set model.head_dim to {2 * max(1, round(hidden / heads / 2))}",  # no number of heads helps
        )


def head_dim_is_even(s: Strategy) -> Iterator[Problem]:
    head_dim = s.model.head_dim
    if "head_dim" not in s.model.model_fields_set and s.model.hidden_size % s.model.num_attention_heads:
        return  # it could not be derived, which head_dim_is_derivable reports
    if head_dim % 2:
        yield Problem(
            code="SW224",
            path="model.head_dim",
            found=f"{head_dim} is odd, but rotary embeddings rotate pairs of dimensions",
            expected="an even number",
            fix=f"set model.head_dim to {head_dim + 1}",
        )


def one_gate_is_not_scaled(s: Strategy) -> Iterator[Problem]:
    k, normalizes = s.model.num_experts_per_tok, s.model.norm_topk_prob
    if s.model.dispatch == "deepspeed":
        return  # it has a rule of its own
    if k == 1 and normalizes and s.model.first_dense_layers < s.model.num_hidden_layers:
        yield Problem(
            code="SW228",
            path="model.norm_topk_prob",
            found="true with num_experts_per_tok 1: the gate is always 1, and the loss gives the router no "
            "gradient",
            expected="false or null with one expert per token",
            fix="set model.norm_topk_prob to null, or model.num_experts_per_tok to 2 or more"
            if s.model.num_experts > 1
            else "set model.norm_topk_prob to null",
        )


def dense_layers_within_model(s: Strategy) -> Iterator[Problem]:
    dense, layers = s.model.first_dense_layers, s.model.num_hidden_layers
    if dense > layers:
        yield Problem(
            code="SW225",
            path="model.first_dense_layers",
            found=f"{dense} dense layers, but model.num_hidden_layers is {layers}",
            expected=f"0 to {layers}",
            fix=f"set model.first_dense_layers to {layers}, or less",
        )


def dense_layers_have_a_width(s: Strategy) -> Iterator[Problem]:
    if s.model.first_dense_layers > 0 and s.model.intermediate_size is None:
        yield Problem(
            code="SW226",
            path="model.intermediate_size",
            found=f"is missing, but model.first_dense_layers is {s.model.first_dense_layers}",
            expected="the inner width of the dense layers",
            fix=f"set model.intermediate_size to {4 * s.model.hidden_size}, or to the width that is meant",
        )


def capacity_has_a_factor(s: Strategy) -> Iterator[Problem]:
    dispatch, factor = s.model.dispatch, s.model.capacity_factor
    if dispatch == "capacity" and factor is None:
        yield Problem(
            code="SW227",
            path="model.capacity_factor",
            found="is missing, but model.dispatch is capacity",
            expected="a number above 0; 1.0 is enough for perfectly balanced routing",
            fix="set model.capacity_factor to 1.25, or to another factor",
        )
    elif dispatch != "capacity" and factor is not None:
        yield Problem(
            code="SW227",
            path="model.capacity_factor",
            found=f"{factor:g} has no effect with model.dispatch {dispatch}",
            expected="null unless model.dispatch is capacity",
            fix="set model.capacity_factor to null, or model.dispatch to capacity",
        )


RULES = (
    top_k_within_experts,
    one_gate_is_not_scaled,
    kv_heads_divide_heads,
    head_dim_is_derivable,
    head_dim_is_even,
    dense_layers_within_model,
    dense_layers_have_a_width,
    capacity_has_a_factor,
)
