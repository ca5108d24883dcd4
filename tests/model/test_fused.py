"""Fused kernels equal eager PyTorch, whatever the number of rows, and are compiled once."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.fused import Kernel, Region
from model.fused_model import use_fused
from model.norm import norm_region, normalize
from tests.support.model_cases import KINDS, config_of, make_model, padding, relative, tokens

ROOT = Path(__file__).parents[2]
EPS = 1e-5


def gradients(function, *args: Tensor) -> list[Tensor]:
    """Result and gradients of a sum that no symmetry hides."""
    args = tuple(arg.detach().requires_grad_() for arg in args)
    result = function(*args)
    weights = torch.linspace(-1.0, 2.0, result.numel(), dtype=result.dtype).view_as(result)
    (result * weights).sum().backward()
    return [result.detach(), *(arg.grad for arg in args if arg.grad is not None)]


def rows(number: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def eager_norm(x: Tensor, weight: Tensor) -> Tensor:
    return normalize(x, weight, EPS)


def test_a_norm_equals_eager_for_any_number_of_rows_and_is_compiled_for_few_and_for_many() -> None:
    """The one region that is compiled in the quick tests."""
    region: Region = norm_region(EPS)
    weight = torch.linspace(0.5, 1.5, 24)
    for number in (5, 0, 5000, 1, 2, 5):
        found = gradients(region, rows(number, 24), weight)
        expected = gradients(eager_norm, rows(number, 24), weight)
        assert [each.shape for each in found] == [each.shape for each in expected]
        # The weight's gradient is a sum over all rows in fp32, whose rounding grows with their root.
        assert max(map(relative, found, expected), default=0.0) < 1e-7 * max(10.0, math.sqrt(number))
    # A row's result does not depend on how many there are.
    few, more, many = (region(rows(5000, 24)[:number], weight) for number in (7, 3000, 5000))
    assert torch.equal(few, more[:7])
    assert torch.equal(few, many[:7])
    compiled = [key[2][-1] for key in region.forward._compiled if key[2][2] == (24,)]
    assert sorted(compiled) == [False, True]


def test_what_is_not_finite_stays_so() -> None:
    """The gradient norm, which decides whether a step is skipped, must see it."""
    x, weight = rows(4, 24), torch.linspace(0.5, 1.5, 24)
    x[1, 3], x[2, 5] = math.inf, math.nan
    found, expected = (gradients(each, x, weight) for each in (norm_region(EPS), eager_norm))
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.isfinite(), theirs.isfinite())


def trained(changes: dict, *, is_fused: bool, dtype: torch.dtype, mask: Tensor | None = None) -> dict:
    """Sums and gradients after a backward pass of 4 sequences of 9 tokens."""
    model = make_model(config_of(**changes), dtype).train()
    model.head_chunk_tokens = 13  # two chunks and a shorter one
    if is_fused:
        use_fused(model)
    ids, targets = tokens(4, 9)
    x, sums = model.run_layers(model.embed(ids), mask)
    entropy = model.cross_entropy(x, targets, mask).sum
    (entropy + 0.7 * sums.aux_loss + 0.3 * sums.z_loss).backward()
    found = {"loss": entropy, "aux": sums.aux_loss, "z": sums.z_loss, "experts": sums.expert_tokens}
    return {**found, **{name: parameter.grad for name, parameter in model.named_parameters()}}


@pytest.mark.parametrize("batch", ["plain", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_regions_equal_eager_before_they_are_compiled(
    kind: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64: their functions, their backward passes and what they keep, without the compiler's part."""
    monkeypatch.setattr(Kernel, "_compiled_for", lambda kernel, args: kernel.function)
    mask = padding(4, 9) if batch == "padded" else None
    found, expected = (
        trained(KINDS[kind], is_fused=fused, dtype=torch.float64, mask=mask) for fused in (True, False)
    )
    assert torch.equal(found["experts"], expected["experts"])
    worst = {name: relative(found[name], expected[name]) for name in expected}
    assert max(worst.values()) < 1e-13, worst


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_equals_eager(kind: str) -> None:
    """fp32, with and without padding: every loss and gradient, by every region."""
    for mask in (None, padding(4, 9)):
        found, expected = (
            trained(KINDS[kind], is_fused=fused, dtype=torch.float32, mask=mask) for fused in (True, False)
        )
        assert torch.equal(found["experts"], expected["experts"])
        worst = {name: relative(found[name], expected[name]) for name in expected}
        assert max(worst.values()) < 2e-6, worst


@pytest.mark.slow
def test_bf16_is_as_close_to_fp64_as_eager_is() -> None:
    """Rounding once where eager rounds several times: the errors of fused gradients are no larger."""
    changes = {**KINDS["swiglu_top2"], "qk_norm": "head", "num_shared_experts": 1}
    exact = trained(changes, is_fused=False, dtype=torch.float64)
    fused, eager = (trained(changes, is_fused=each, dtype=torch.bfloat16) for each in (True, False))
    assert torch.equal(fused["experts"], eager["experts"])
    errors = {
        name: (relative(fused[name], exact[name]), relative(eager[name], exact[name])) for name in exact
    }
    assert all(mine < 1.5 * theirs + 1e-3 for mine, theirs in errors.values()), errors


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [("layer", None), ("attention", None), ("experts", None)])
def test_recompute_keeps_its_bits(recompute: tuple) -> None:
    def run(kind: tuple) -> dict:
        model = make_model(config_of(**KINDS["top3_shared_dense"])).train()
        use_fused(model)
        model.model.set_recompute(*kind)
        ids, targets = tokens(4, 9)
        x, _ = model.run_layers(model.embed(ids))
        model.cross_entropy(x, targets).sum.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    found, expected = run(recompute), run(("none", None))
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


_AFTER = """
import hashlib, sys, torch
torch.set_num_threads(1)
from tests.model.test_fused import gradients, rows
from model.norm import norm_region
from model.expert_activation import activation_region
gates = torch.linspace(0.1, 0.9, 90000)
def both(number):
    norm = gradients(norm_region(1e-5), rows(number, 40), torch.linspace(0.5, 1.5, 40))
    activation = activation_region("silu", is_gated=True)
    return norm + gradients(lambda x, g: activation(x, g), rows(number, 40), gates[:number])
for number in map(int, sys.argv[1:]):
    found = both(number)
print(hashlib.sha256(b"".join(each.numpy().tobytes() for each in found)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "courses",
    [
        (["300"], ["3000", "17", "300"], ["2", "300"]),
        # Beyond torch's threshold for sums, also where it was crossed first by a much larger batch.
        (["5000"], ["300", "5000"], ["90000", "5000"], ["9001", "17", "5000"]),
    ],
    ids=["few rows", "many rows"],
)
def test_the_bits_depend_on_no_earlier_shape(courses: tuple[list[str], ...], tmp_path: Path) -> None:
    """A process that begins with a batch, compiling all, has the bits of one that had other batches before:
    what a run resumed in the middle needs."""
    digests = set()
    for place, numbers in enumerate(courses):
        environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / str(place))}
        command = [sys.executable, "-c", _AFTER, *numbers]
        digests.add(subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True).stdout)
    assert len(digests) == 1


def test_a_model_that_is_not_fused_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", refuse)
    trained(KINDS["swiglu_top2"], is_fused=False, dtype=torch.float32)
    with pytest.raises(AssertionError, match="compiled"):
        trained({**KINDS["swiglu_top2"], "hidden_size": 20}, is_fused=True, dtype=torch.float32)
