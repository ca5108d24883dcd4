"""FP8 products against their definition in fp64."""

import math

import pytest
import torch
from torch import Tensor, nn

from model.e4m3 import E4M3, Quantized, pack_rows, quantize, scales_of, unpack_rows
from model.experts import Experts
from model.float8 import float8_product, multiply, quantize_both
from model.linear import Float8Linear, use_float8
from model.products import ExpertRows
from tests.support.float8_reference import e4m3_numbers, product_in_fp8, quantized, scale_of, wild
from tests.support.model_cases import config_of, make_model, relative, tokens

DTYPES = [torch.float32, torch.bfloat16]


def test_codes_are_the_format_s_own() -> None:
    numbers = torch.arange(127, dtype=torch.uint8).view(E4M3).double()
    assert torch.equal(numbers, e4m3_numbers())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [-1, -2])
def test_quantized_values_are_those_of_the_definition(dtype: torch.dtype, dim: int) -> None:
    """To the bit: a power of two times a code is exact in bf16 too."""
    x = wild((24, 40), dtype)
    values = quantize(x, dim).values
    assert values.dtype == dtype
    assert torch.equal(values.double(), quantized(x, dim))


@pytest.mark.parametrize("shape", [(3, 16, 40), (3, 10, 6)])
def test_experts_have_scales_of_their_own(shape: tuple[int, ...]) -> None:
    x = wild(shape, torch.bfloat16)
    for dim in (-1, -2):
        assert torch.equal(quantize(x, dim).values.double(), quantized(x, dim))
        assert torch.equal(quantize(x, dim).transposed.values.double(), quantized(x, dim).mT)


def test_a_quantized_row_is_not_rounded_again() -> None:
    once = quantize(wild((24, 40), torch.bfloat16)).values
    assert torch.equal(quantize(once).values, once)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_rows_are_a_byte_an_element_and_four_a_row(dtype: torch.dtype) -> None:
    x = wild((24, 7), dtype)
    packed = pack_rows(x)
    assert (packed.dtype, packed.shape) == (torch.uint8, (24, 7 + 4))
    assert torch.equal(unpack_rows(packed, dtype).double(), quantized(x))
    whole = x.view(2, 12, 7)
    assert torch.equal(unpack_rows(pack_rows(whole), dtype), unpack_rows(packed, dtype).view(2, 12, 7))
    assert unpack_rows(pack_rows(x[:0]), dtype).shape == (0, 7)


@pytest.mark.parametrize(
    "largest", [0.0, 1e-45, 2.0**-127, 1.0, 1.75, 1.7500001, 448.0, 449.0, 512.0, 3e38, 3.4028235e38]
)
def test_scales_at_the_borders(largest: float) -> None:
    value = torch.tensor([largest])
    scale = scales_of(value.clone())
    assert scale.item() == scale_of(value.item())
    assert scale.item() > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(value: float, dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 32).to(dtype), torch.randn(5, 32).to(dtype)
    clean = float8_product(x, weight)
    x[1, 3] = value
    y = float8_product(x, weight)
    assert not y[1].isfinite().any()
    assert torch.equal(y[[0, 2, 3]], clean[[0, 2, 3]])
    weight[2, 0] = value
    assert not float8_product(x, weight)[:, 2].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_product_and_its_gradients_are_those_of_the_definition(dtype: torch.dtype) -> None:
    x, weight, grad = wild((24, 40), dtype, 1), wild((16, 40), dtype, 2), wild((24, 16), dtype, 3)
    x.requires_grad_(), weight.requires_grad_()
    y = float8_product(x, weight)
    y.backward(grad)
    expected = product_in_fp8(x.detach(), weight.detach(), grad)
    # Sums in fp32, and in bf16 one rounding of each result.
    tolerance = 1e-6 if dtype == torch.float32 else 2.0**-8
    for found, wanted in zip((y, x.grad, weight.grad), expected, strict=True):
        assert found.dtype == dtype
        for row, wanted_row in zip(found.detach(), wanted, strict=True):
            assert (row - wanted_row).norm() <= tolerance * max(wanted_row.norm().item(), 1e-30)


@pytest.mark.parametrize("counts", [[5, 0, 9, 10], [0, 0, 24, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("hidden", [40, 22], ids=["grouped", "one by one"])
def test_experts_products_are_each_expert_s_own(counts: list[int], hidden: int) -> None:
    num_rows = sum(counts)
    x, grad = wild((24, hidden), torch.float32, 1)[:num_rows], wild((24, 16), torch.float32, 3)[:num_rows]
    weight = wild((4, 16, hidden), torch.float32, 2)
    x.requires_grad_(), weight.requires_grad_()
    y = float8_product(x, weight, ExpertRows.of(torch.tensor(counts)))
    y.backward(grad)
    start = 0
    for expert, count in enumerate(counts):
        mine = slice(start, start + count)
        expected = product_in_fp8(x.detach()[mine], weight.detach()[expert], grad[mine]) if count else ()
        found = (y[mine], x.grad[mine], weight.grad[expert])
        for part, wanted in zip(found, expected, strict=False):
            assert relative(part.detach().double(), wanted) < 1e-6
        assert count or not weight.grad[expert].any()
        start += count


def test_torch_s_own_scaled_product_agrees() -> None:
    """The call that FP8 units are given, on torch's CPU implementation of it."""
    x, weight = torch.randn(32, 64).bfloat16(), torch.randn(48, 64).bfloat16()
    a, b = quantize_both(x, weight, -1)
    called = torch._scaled_mm(
        a.codes,
        b.transposed.codes,
        a.scales,
        b.transposed.scales,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    assert relative(called.double(), multiply(a, b.transposed).double()) < 2.0**-8


@pytest.mark.parametrize("is_transposed", [False, True])
def test_the_grouped_call_has_the_shapes_that_torch_asks_for(
    is_transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On meta tensors: torch checks dtypes, strides, alignment and scales there as on a GPU."""
    monkeypatch.setattr("model.float8.has_kernel", lambda *_: True)
    rows = ExpertRows(counts_L=torch.empty(3, device="meta"), ends_L=torch.empty(3, device="meta").int())
    a = quantize(torch.empty(24, 32, dtype=torch.bfloat16, device="meta"))
    if is_transposed:
        b = quantize(torch.empty(3, 48, 32, dtype=torch.bfloat16, device="meta"), -1).transposed
    else:
        b = quantize(torch.empty(3, 32, 48, dtype=torch.bfloat16, device="meta"), -2)
    assert multiply(a, b, rows).shape == (24, 48)
    dense = Quantized(codes=b.codes[0], scales=b.scales[0], dtype=b.dtype)
    assert multiply(a, dense).shape == (24, 48)


def test_every_linear_layer_and_expert_of_a_model_multiplies_in_fp8() -> None:
    """The router, the norms and the embedding do not."""
    config = config_of(aggregation="linear", num_shared_experts=1, first_dense_layers=1, intermediate_size=8)
    model = make_model(config)
    names = list(dict(model.named_parameters()))
    use_float8(model)
    assert list(dict(model.named_parameters())) == names
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 2 * 4 + 2 + 2 + 2  # attention, dense MLP, shared experts, aggregation and head
    assert {type(module) for module in linear} == {Float8Linear}
    assert [module.is_float8 for module in model.modules() if isinstance(module, Experts)] == [True]


def gradients(model: nn.Module, ids: Tensor, targets: Tensor) -> tuple[float, dict[str, Tensor]]:
    x, sums = model.run_layers(model.embed(ids))
    loss = model.cross_entropy(x, targets).sum + 0.1 * sums.z_loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("expert", ["mlp", "swiglu"])
def test_a_model_s_gradients_are_near_those_without_fp8(expert: str) -> None:
    config = config_of(
        expert=expert, hidden_size=64, moe_intermediate_size=64, head_dim=16, aggregation="linear",
        num_experts_per_tok=4, vocab_size=64, initializer_range=0.1,
    )  # fmt: skip
    ids, targets = tokens(4, 16, vocab_size=64)
    results = []
    for in_fp8 in (False, True):
        model = make_model(config)
        if in_fp8:
            use_float8(model)
        results.append(gradients(model, ids, targets))
    (loss, grads), (loss_in_fp8, grads_in_fp8) = results
    assert 0 < abs(loss_in_fp8 / loss - 1) < 0.02
    for name, grad in grads.items():
        assert 0 < relative(grads_in_fp8[name], grad) < 0.3, name
