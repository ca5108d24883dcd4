"""Memory over a step: every phase of a small rank by hand, and what recomputation may change."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import Plan, predict
from planner.counts.flops import executed_flops, model_flops
from planner.counts.parameters import stage_parameters
from planner.hardware.catalog import device_of
from planner.memory.memory_model import MemoryModel
from planner.memory.phases import PhaseMemory
from planner.memory.rank_memory import fullest_ranks, rank_memory
from planner.plan.ds_config import bucket_elements
from planner.strategy.changes import change_keys
from planner.timing.time_model import TimeModel
from tests.support.examples import plan

# Hidden 64, 2 heads of 32, 4 experts of 128, a vocabulary of 1,000; one sequence of 128 tokens a step, bf16.
SMALL = (
    "cluster={hosts: 1, gpus_per_host: 1, gpu: H100, links: {intra_host: 1 Gbps, inter_host: 1 Gbps}}",
    "model={num_hidden_layers: 2, num_experts: 4, hidden_size: 64, moe_intermediate_size: 128, "
    "num_attention_heads: 2, head_dim: 32, vocab_size: 1000}",
    "training.seq_length=128",
    "data.validation_sequences=1",
)
ONE = (*SMALL, "training.global_batch=1")
REPLAYED = "runtime.replay_every=10"
# Two such ranks, each with all experts: every gradient is reduced.
# At most half of a group is added to a sum at once: the head is in one with attention and routers.
DECAYED_HALF = (64_000 + 2 * (4 * 64 * 64 + 4 * 64)) // 2
TWO = (*SMALL, "cluster.gpus_per_host=2", "parallel.dp=2")
HIDDEN = 128 * 64  # elements of a hidden state
NORM = 6 * HIDDEN + 4 * 128  # fp32 input, normalised, a factor each
ATTENTION = NORM + 2 * HIDDEN + 128 * (2 * 4 * 64 + 4 * 2)  # input, q k v and result, a logsumexp a head
ROUTER = 4 * HIDDEN + 4 * 4 * 64 + 4 * 4 * 3 * 128 + 8 * 128 + 4 * 128
ROWS = 2 * HIDDEN + 4 * 128 + 4 * 4  # inputs and gates of experts, where each one's end
INNER = 2 * 128 * 2 * 128  # what silu needs, and the input of the last product
EXPERTS = NORM + ROUTER + ROWS + INNER
ROUTES = 8 * (2 * 128 + 4)  # which row is which route
CHOSEN = 8 * 128 * 1  # the experts of every token, which a layer replays
HEAD = 2 * HIDDEN + 2 * 1000 * 64  # the loss makes both gradients in the forward pass; of one chunk in bf16
ONCE = 2 * 2 * 128 * 32 + 8 * 128 + NORM  # rotation, token ids, final norm
KEPT = 2 * (ATTENTION + EXPERTS + ROUTES) + ONCE + HEAD
INPUTS = 8 * (129 + 2 * 4) + 64
LAYER = 2 * 64 + 4 * 64 * 64 + 4 * 64 + 2 * 4 * 128 * 64
ALL = 2 * LAYER + 2 * 64_000 + 64


def phases_of(built: Plan, rank: int = 0) -> dict[str, PhaseMemory]:
    return {phase.phase: phase for phase in rank_memory(built, rank).phases}


def test_every_phase_of_a_small_rank_by_hand() -> None:
    found = phases_of(plan(*ONE))
    for phase in found.values():
        assert (phase.weights, phase.masters, phase.moments) == (2 * ALL, 4 * ALL, 8 * ALL + 4 * 3)
    forward, loss, backward = found["forward"], found["loss"], found["backward"]
    # One micro-batch: no gradients yet, and no bucket.
    assert (forward.gradients, forward.buckets, forward.logits) == (0, 0, 0)
    assert forward.activations == loss.activations == KEPT - HEAD + INPUTS
    # 128 tokens are one chunk: logits as they come and in fp32; the vectors before and after the norm, fp32
    # in between; a few numbers of a token.
    assert loss.logits == HEAD + 6 * 128 * 1000 + 10 * HIDDEN + 128 * (32 + 64)
    assert loss.temporaries == 0
    # Backward is fullest when it begins, at the head: everything is kept, and two gradients are made. The
    # head's is what was kept; it is scaled in fp32. Two hidden states are on their way.
    assert backward.activations == KEPT + INPUTS
    assert backward.gradients == 2 * (64_000 + 64)
    assert backward.temporaries == 4 * HIDDEN + 4 * 64_000 - 2 * 64_000
    assert backward.buckets == 0  # no other rank has any of these parameters
    assert found["reduction"].gradients == 2 * ALL
    assert found["reduction"].buckets == 0
    assert found["reduction"].activations == INPUTS + 2 * ROUTES
    # The experts are the largest group: in fp32, while the gradients are there.
    experts = 2 * 2 * 4 * 128 * 64
    assert (found["update"].gradients, found["update"].temporaries) == (2 * ALL, 4 * experts)
    assert found["between steps"].total == found["between steps"].overhead + 14 * ALL + 4 * 3


def test_two_ranks_reduce_by_hand() -> None:
    found = phases_of(plan(*TWO, "training.global_batch=2"))
    assert found["backward"].buckets == 2 * 50_000_000
    # ZeRO 1 reduces all gradients after backward, out of the bucket, which is copied for it.
    assert found["reduction"].buckets == 2 * 50_000_000 + 2 * ALL
    # The first of two ranks updates half of each group and holds the gradients of the tensors in it.
    assert 2 * ALL / 2 <= found["update"].gradients <= 2 * ALL
    assert found["update"].temporaries == 4 * 2 * 4 * 128 * 64
    assert found["between steps"].masters == 4 * ALL / 2


def test_accumulation_keeps_gradients_while_activations_are_there() -> None:
    """Two micro-batches: ZeRO 2, bf16 gradients are added to an fp32 sum as soon as they are reduced."""
    every = "runtime.reduce=every_micro_batch"
    alone, found = (
        phases_of(plan(*SMALL, "training.global_batch=2", every)),
        phases_of(plan(*TWO, "training.global_batch=4", every)),
    )
    assert (alone["forward"].gradients, found["forward"].gradients) == (4 * ALL, 4 * ALL / 2)
    assert found["forward"].buckets == 0  # given back after each backward pass
    largest = 4 * 128 * 64
    assert alone["backward"].gradients == 4 * ALL + 2 * 64_000  # the head's is the largest tensor
    assert largest < 64_000
    # The copy that is reduced, and what is made fp32 to be added: alone in parts of 2 MiB.
    assert alone["backward"].buckets == 4 * 64_000
    assert found["backward"].buckets == 2 * 50_000_000 + 2 * ALL + 4 * DECAYED_HALF


def test_gradients_reduced_once_are_summed_in_fp32_beside_everything() -> None:
    found = phases_of(plan(*SMALL, "training.global_batch=2"))
    assert found == phases_of(plan(*SMALL, "training.global_batch=2", "runtime.reduce=once"))
    for name in ("forward", "loss", "backward"):
        assert found[name].sums == 4 * ALL
    # The optimizer takes the sums as they are.
    for name in ("reduction", "update", "between steps"):
        assert found[name].sums == 0
    assert (found["forward"].gradients, found["forward"].buckets) == (0, 0)
    assert found["backward"].gradients == 2 * 64_000  # the head's is the largest tensor
    assert found["backward"].buckets == 4 * 64_000
    assert found["reduction"].gradients == found["update"].gradients == 4 * ALL


def test_sums_leave_for_deepspeeds_partition_as_they_are_reduced() -> None:
    found = phases_of(plan(*TWO, "training.global_batch=4"))
    assert (found["forward"].sums, found["backward"].sums) == (4 * ALL, 4 * ALL)
    assert found["backward"].gradients == 4 * ALL / 2 + 2 * 64_000
    assert found["backward"].buckets == 2 * 50_000_000 + 2 * ALL + 4 * DECAYED_HALF
    assert found["reduction"].gradients == 4 * ALL / 2
    assert found["reduction"].buckets == 2 * 50_000_000 + 2 * ALL + 4 * DECAYED_HALF


def test_a_micro_batch_exchanged_beside_another_keeps_its_activations() -> None:
    own = (*SMALL, "training.global_batch=4")
    plain, found = phases_of(plan(*own)), phases_of(plan(*own, "runtime.overlap_all_to_all=true"))
    assert plain["forward"].activations == KEPT - HEAD + 4 * INPUTS
    assert found["forward"].activations == 2 * KEPT - HEAD + 4 * INPUTS
    assert found["forward"].temporaries == 2 * plain["forward"].temporaries
    assert found["backward"].temporaries == plain["backward"].temporaries + plain["forward"].temporaries


def test_gradients_reduced_beside_backward_need_two_buckets_there() -> None:
    found = phases_of(plan(*TWO, "training.global_batch=4", "runtime.overlap_reduce=true"))
    assert found["backward"].buckets == 2 * 2 * 50_000_000 + 2 * ALL + 4 * DECAYED_HALF
    once = (*TWO, "training.global_batch=4", "runtime.reduce=once", "runtime.overlap_reduce=true")
    backward = phases_of(plan(*once))["backward"]
    assert (backward.sums, backward.gradients) == (4 * ALL, 4 * ALL / 2 + 2 * 64_000)


def test_what_is_not_reduced_overlaps_with_nothing() -> None:
    own = (*SMALL, "training.global_batch=2")
    assert phases_of(plan(*own, "runtime.overlap_reduce=true")) == phases_of(plan(*own))


def test_a_micro_batch_that_is_computed_twice_meets_all_gradients() -> None:
    """On a CPU those of its first pass, too, in the dtype of the weights."""
    on_cpu = (*ONE, "cluster.gpu=cpu", "training.precision=bf16")
    plain, found = phases_of(plan(*on_cpu)), phases_of(plan(*on_cpu, REPLAYED))
    first = 2 * ALL
    assert "replay" not in plain
    assert found["replay"].gradients >= plain["reduction"].gradients + first
    assert found["replay"].activations >= plain["forward"].activations
    assert found["backward"].gradients == plain["backward"].gradients + first
    assert found["update"] == plain["update"]


def test_one_micro_batch_has_nothing_to_sum() -> None:
    assert phases_of(plan(*ONE, "runtime.reduce=once")) == phases_of(plan(*ONE))


def test_a_search_counts_sums_and_overlap_too() -> None:
    overlaps = ("runtime.overlap_reduce=true", "runtime.overlap_all_to_all=true")
    for own in (
        ("training.precision=bf16", "runtime.reduce=once"),
        ("parallel={ep: 8, zero_stage: 2}", "runtime.reduce=once"),
        ("parallel={ep: 8, pp: 4}", *overlaps),
        ("parallel={ep: 8, zero_stage: 1}", "training.precision=fp32", *overlaps),
        ("parallel={ep: 8, placement: staged}", "runtime.reduce=once", *overlaps),
        ("parallel={ep: 8, pp: 4}", "runtime.replay_every=10", "runtime.deterministic=true"),
        ("parallel={ep: 8, placement: staged}", "training.precision=bf16", "cluster.gpu=cpu", REPLAYED),
    ):
        built = plan(*own, "training.global_batch=256", "limits.memory_max=1000 GB")
        peak = max(memory.peak_bytes for memory in fullest_ranks(built))
        assert MemoryModel().peak_bytes(built, 10**15) == peak


def test_fused_kernels_keep_their_inputs_and_no_fp32_copies() -> None:
    """swiglu: what its activation keeps is the same, for backward makes the result again in eager too."""
    swiglu = "model.expert=swiglu"
    eager = phases_of(plan(*ONE, swiglu))["forward"]
    fused = phases_of(plan(*ONE, swiglu, "runtime.kernels=fused"))["forward"]
    norm = 2 * HIDDEN  # 5 of them: the input in bf16
    less = 5 * (NORM - norm) + 2 * 4 * 128  # and two routers, which keep no sum of exponentials a token
    assert eager.activations - fused.activations == less
    assert fused.temporaries < eager.temporaries


def test_fused_cross_entropy_has_no_logits_in_fp32() -> None:
    loss = phases_of(plan(*ONE, "runtime.kernels=fused"))["loss"]
    assert loss.logits == HEAD + 2 * 128 * 1000 + 6 * HIDDEN + 128 * (32 + 64)


def test_the_peak_is_less_than_the_sum_of_the_peaks_of_each_cause() -> None:
    built = plan(*TWO, "training.micro_batch=16", "training.global_batch=32", "training.precision=fp32")
    memory = rank_memory(built, 0)
    most = {name: max(dict(phase.by_cause)[name] for phase in memory.phases) for name, _ in memory.by_cause}
    assert memory.fullest.phase == "backward"
    missing = most["gradients"] - memory.fullest.gradients + most["logits"]
    assert memory.peak_bytes <= sum(most.values()) - missing < sum(most.values())


def test_the_bucket_holds_the_largest_tensor() -> None:
    """Of Qwen3-30B-A3B with ep 8: gate and up of 16 experts, 16 × 1,536 × 2,048 elements."""
    qwen = (
        "model={num_hidden_layers: 48, num_experts: 128, num_experts_per_tok: 8, hidden_size: 2048, "
        "moe_intermediate_size: 768, expert: swiglu, num_attention_heads: 32, num_key_value_heads: 4, "
        "head_dim: 128, qk_norm: head, vocab_size: 151936}",
    )
    built = plan(*qwen, "parallel=EP8")
    assert bucket_elements(built) == 151_936 * 2048  # the embedding and the head are larger still
    assert bucket_elements(plan(*qwen, "parallel=EP8_TP4")) == 151_936 * 2048 // 4
    assert bucket_elements(plan(*qwen, "model.vocab_size=4096", "parallel=EP8")) == 16 * 1536 * 2048
    assert bucket_elements(plan("parallel=EP64")) == 50_000_000


@settings(max_examples=25, deadline=None)
@given(
    degrees=st.sampled_from(["EP64", "EP8_TP2", "EP4_TP8_PP2", "EP8_PP4", "EP4_TP4"]),
    placement=st.sampled_from(["colocated", "staged"]),
    expert=st.sampled_from(["mlp", "swiglu"]),
    shared=st.integers(0, 2),
    dense=st.integers(0, 2),
    qk_norm=st.sampled_from(["none", "head", "projection"]),
)
def test_the_bucket_is_the_largest_tensor_of_any_rank(
    degrees: str, placement: str, expert: str, shared: int, dense: int, qk_norm: str
) -> None:
    """Against the list of the parameters themselves, made wide enough to be above the smallest bucket."""
    built = plan(
        f"parallel={{placement: {placement}, "
        + ", ".join(f"{part[:2].lower()}: {part[2:]}" for part in degrees.split("_"))
        + "}",
        f"model.expert={expert}",
        f"model.num_shared_experts={shared}",
        f"model.first_dense_layers={dense}",
        "model.intermediate_size=60000",
        "model.moe_intermediate_size=20480",
        f"model.qk_norm={qk_norm}",
    )
    tensors = [
        tensor.num_elements for s in built.stages for tensor in stage_parameters(built.strategy.model, s)
    ]
    assert bucket_elements(built) == max(50_000_000, *tensors)


def with_recompute(built: Plan, recompute: object) -> Plan:
    return replace(built, strategy=change_keys(built.strategy, {"runtime.recompute": recompute}))


def test_recomputation_by_hand() -> None:
    def kept(recompute: object) -> int:
        return phases_of(with_recompute(plan(*ONE), recompute))["forward"].activations

    none = kept("none")
    assert none - kept("layer") == 2 * (ATTENTION + EXPERTS - 2 * HIDDEN - CHOSEN)
    assert none - kept("attention") == 2 * (ATTENTION - 2 * HIDDEN)
    assert none - kept("experts") == 2 * INNER
    assert none - kept({"layers": 1}) == ATTENTION + EXPERTS - 2 * HIDDEN - CHOSEN


def test_what_is_recomputed_is_counted_and_takes_its_time() -> None:
    built = plan("parallel=EP64_TP2", "limits.memory_max=64 GB")
    device = device_of(built.strategy.cluster.gpu)
    base, flops = predict(built, device), executed_flops(built)
    tokens = 128 * 1024

    def of(recompute: object) -> tuple[int, dict[str, float]]:
        changed = with_recompute(built, recompute)
        more = executed_flops(changed)
        assert (more.forward, more.backward) == (flops.forward, flops.backward)
        assert model_flops(changed) == model_flops(built)  # MFU counts no recompute
        return more.recompute - flops.recompute, predict(changed, device).mean_phases_s

    attention, attention_s = of("attention")
    scores = 2 * 2 * tokens * 1025 // 2 * 1024
    assert attention == 16 * (3 * 2 * tokens * 1024 * 1024 + scores)  # its last product keeps its input only
    experts, experts_s = of("experts")
    assert experts == 16 * 2 * tokens * 1024 * 2048
    layers, layers_s = of({"layers": 4})
    every, every_s = of("layer")
    assert layers * 4 == every
    # One of a layer's four exchanges of rows comes again with the layer; counts, routes and gates do not.
    before = base.mean_phases_s["all_to_all"]
    assert attention_s["all_to_all"] == experts_s["all_to_all"] == before
    assert 1.15 * before < every_s["all_to_all"] < 1.25 * before
    assert layers_s["all_to_all"] - before == pytest.approx((every_s["all_to_all"] - before) / 4)
    assert experts_s["tensor_parallel"] == base.mean_phases_s["tensor_parallel"]
    assert (
        attention_s["tensor_parallel"] == base.mean_phases_s["tensor_parallel"] < every_s["tensor_parallel"]
    )


@settings(max_examples=40, deadline=None)
@given(
    degrees=st.sampled_from(["EP64", "EP8_TP2", "EP8_PP4", "EP4_TP4_PP8"]),
    placement=st.sampled_from(["colocated", "staged"]),
    micro_batch=st.sampled_from([1, 2]),
    precision=st.sampled_from(["fp32", "bf16"]),
    zero=st.sampled_from([1, 2]),
    few=st.integers(1, 16),
)
def test_more_recompute_is_never_more_memory_and_never_less_time(
    degrees: str, placement: str, micro_batch: int, precision: str, zero: int, few: int
) -> None:
    """But for one hidden state, since the layer that backward meets first is recomputed when all is there, so
    that its input is kept in addition; and for the routes that are kept to be replayed."""
    parts = ", ".join(f"{part[:2].lower()}: {part[2:]}" for part in degrees.split("_"))
    built = plan(
        f"parallel={{placement: {placement}, zero_stage: {zero}, {parts}}}",
        f"training.micro_batch={micro_batch}",
        f"training.precision={precision}",
        "limits.memory_max=1000 GB",
    )
    device = device_of(built.strategy.cluster.gpu)

    def of(recompute: object) -> tuple[int, float]:
        changed = with_recompute(built, recompute)
        peak = max(memory.peak_bytes for memory in fullest_ranks(changed))
        assert MemoryModel().peak_bytes(changed, 10**15) == peak
        return peak, TimeModel(device).step(changed).expected_s

    hidden = 4 * micro_batch * 1024 * 1024
    routes = 16 * (4 * micro_batch * 1024 + 8 * 64)  # of each layer: an expert a token, counts of experts
    none, every = of("none"), of("layer")
    chain = [none, of({"layers": few}), of({"layers": few + 1}), every]
    for less, more in [
        *pairwise(chain),
        *((none, of(k)) for k in ("attention", "experts")),
    ]:
        assert more[0] <= less[0] + hidden + routes
        assert more[1] >= less[1] * (1 - 1e-12)
    for kind in ("attention", "experts"):
        assert none[1] <= of(kind)[1] <= every[1] * (1 + 1e-12)
