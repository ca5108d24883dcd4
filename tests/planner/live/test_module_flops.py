"""FLOPs are those that torch counts, kept bytes those that autograd saves, on small real models."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import products
from model.fused import Kernel
from model.fused_model import use_fused
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import Plan
from planner.counts.flops import executed_flops, model_flops
from planner.counts.module_flops import ModuleCost, stage_modules
from runtime.training.training_model import model_config
from tests.support.examples import plan

# Sequences long enough that no token count is a layer's width, experts enough for uneven loads.
SMALL = (
    "cluster={hosts: 1, gpus_per_host: 1, gpu: cpu, links: {intra_host: 1 Gbps, inter_host: 1 Gbps}}",
    "model={num_hidden_layers: 3, num_experts: 4, num_experts_per_tok: 2, hidden_size: 32, "
    "moe_intermediate_size: 40, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, "
    "vocab_size: 80}",
    "training.seq_length=48",
    "training.global_batch=3",
    "data.validation_sequences=3",
)
MODELS = {
    "mlp": (),
    "swiglu, aggregation": ("model.expert=swiglu", "model.aggregation=linear"),
    "packed documents": ("data.packing=documents", "model.expert=swiglu"),
    "relu, raw gates": ("model.hidden_act=relu", "model.norm_topk_prob=false"),
    "relu, swiglu": ("model.hidden_act=relu", "model.expert=swiglu"),
    "shared, dense, head norm": (
        "model.expert=swiglu",
        "model.num_shared_experts=1",
        "model.first_dense_layers=1",
        "model.intermediate_size=56",
        "model.qk_norm=head",
    ),
    "top-1, gelu, projection norm": (
        "model.num_experts_per_tok=1",
        "model.hidden_act=gelu",
        "model.qk_norm=projection",
        "model.num_shared_experts=2",
    ),
}


def model_of(built: Plan, dtype: torch.dtype = torch.float32) -> SwitchyardForCausalLM:
    torch.manual_seed(1)
    model = SwitchyardForCausalLM(model_config(built.strategy)).to(dtype)
    if built.strategy.runtime.kernels == "fused":
        use_fused(model)  # all regions, as on a GPU
    return model


def run(model: SwitchyardForCausalLM, built: Plan) -> torch.Tensor:
    """The loss of one micro-batch, as runtime.training.training_model makes it."""
    training = built.strategy.training
    generator = torch.Generator().manual_seed(2)
    shape = (training.global_batch, training.seq_length)
    ids = torch.randint(built.strategy.model.vocab_size, shape, generator=generator)
    targets = torch.randint(built.strategy.model.vocab_size, shape, generator=generator)
    positions = None
    if built.strategy.data.packing == "documents":
        documents = ((20, 28), (48,), (1, 39, 8))
        positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in documents])
    x, sums = model.run_layers(model.embed(ids), None, positions)
    entropy = model.cross_entropy(x, targets, None)
    return entropy.sum + 0.01 * sums.aux_loss + 0.001 * sums.z_loss


def works_of(built: Plan) -> dict[str, ModuleCost]:
    return {work.name: work for work in stage_modules(built, built.stages[0])}


def flops_of_addmm(_: object, a_shape: list[int], b_shape: list[int], **__: object) -> int:
    """torch 2.13 counts addmm and forgets addmm_, by which the head adds up its weight's gradient."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "packed documents"])
def test_flops_equal_torchs_counter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts attention as the full square: with it (S + 1) / 2S of that, the one stated correction."""
    # Experts one after the other: the counter does not know grouped_mm on a CPU.
    monkeypatch.setattr(products, "can_group", lambda weight: False)
    built = plan(*SMALL, *MODELS[name], "training.micro_batch=3", "training.precision=fp32")
    model = model_of(built)
    seq_length = built.strategy.training.seq_length
    works = works_of(built)
    in_place = {torch.ops.aten.addmm_: flops_of_addmm}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss = run(model, built)
        forward = counter.get_total_flops()
        loss.backward()
        backward = counter.get_total_flops() - forward
    square = works["attention"].flops_forward * 2 * seq_length // (seq_length + 1)
    above = square - works["attention"].flops_forward
    head = works["head"].flops_backward  # the loss makes its gradients in the forward pass
    assert sum(work.flops_forward for work in works.values()) == forward - above - head
    assert sum(work.flops_backward for work in works.values()) == backward - 2 * above + head
    asked, executed = model_flops(built), executed_flops(built)
    assert asked.forward == forward - above - head
    assert (executed.forward, executed.backward) == (asked.forward, asked.backward)
    assert executed.recompute == works["attention"].flops_forward // 2


def test_executed_flops_of_a_layout_add_the_routes_of_tp_partners() -> None:
    one = plan(*SMALL)
    two = plan(*SMALL, "parallel=EP2_TP2")
    assert model_flops(one) == model_flops(two)
    tokens = 3 * 48
    again = (
        2 * tokens * 4 * 32 * 3 * 2
    )  # products with all tokens, 4 experts, hidden 32, 3 layers, 2 partners
    assert executed_flops(two).forward == executed_flops(one).forward + again
    assert executed_flops(two).backward == executed_flops(one).backward


def flops_of_grouped(a_shape: list[int], b_shape: list[int], *_: object, **__: object) -> int:
    """torch's counter does not know grouped_mm: rows times weights or, for a gradient, times rows."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[-1]


@pytest.mark.parametrize("recompute", ["layer", "attention", "experts", "{layers: 1}"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "packed documents"])
def test_what_is_recomputed_equals_torchs_counter(name: str, recompute: str) -> None:
    counted = {torch.ops.aten.addmm_: flops_of_addmm, torch.ops.aten._grouped_mm: flops_of_grouped}
    backward, recomputed = [], []
    for kind in ("none", recompute):
        built = plan(
            *SMALL,
            *MODELS[name],
            "training.micro_batch=3",
            "training.precision=fp32",
            f"runtime.recompute={kind}",
        )
        chosen = built.strategy.runtime.recompute
        model = model_of(built).train()
        model.model.set_recompute(chosen.kind, chosen.layers)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=counted) as counter:
            loss = run(model, built)
            forward = counter.get_total_flops()
            loss.backward()
            backward.append(counter.get_total_flops() - forward)
        recomputed.append(executed_flops(built).recompute)
    seq_length, num_layers = built.strategy.training.seq_length, built.strategy.model.num_hidden_layers
    # The counter's scores are of the full square.
    causal = works_of(plan(*SMALL, *MODELS[name], "training.micro_batch=3"))["attention"].flops_forward
    times = {"experts": 0, "{layers: 1}": 1}.get(recompute, num_layers)
    above = causal * (seq_length - 1) // (seq_length + 1) * times // num_layers
    assert recomputed[1] - recomputed[0] == backward[1] - backward[0] - above


def saved_bytes(model: SwitchyardForCausalLM, built: Plan) -> int:
    """Bytes of what autograd keeps, every storage once, parameters left out."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run(model, built)
    found = sum(storage.nbytes() for storage in kept.values())
    loss.backward()
    return found


@pytest.mark.parametrize("kernels", ["eager", "fused"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_activation_bytes_are_those_that_autograd_saves(
    name: str, precision: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused: what is kept does not depend on whether the kernels are compiled, which takes a while."""
    monkeypatch.setattr(Kernel, "_compiled_for", lambda kernel, args: kernel.function)
    built = plan(
        *SMALL,
        *MODELS[name],
        "training.micro_batch=3",
        f"training.precision={precision}",
        f"runtime.kernels={kernels}",
    )
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    saved = saved_bytes(model_of(built, dtype), built)
    model = built.strategy.model
    # Which row each route is: kept by the functions that move rows, outside of what a hook can see.
    routes = 3 * 48 * model.num_experts_per_tok
    unseen = 8 * (2 * routes + model.num_experts) * model.num_moe_layers
    assert sum(work.activation_bytes for work in works_of(built).values()) == saved + unseen
