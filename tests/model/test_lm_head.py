"""Chunked cross-entropy compared with torch's, and its bounded memory."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from model.collectives import ModelGroups
from model.lm_head import chunked_cross_entropy, make_lm_head


def head_of(vocab_size: int, hidden_size: int, dtype=torch.float64) -> nn.Linear:
    head = make_lm_head(hidden_size, vocab_size, ModelGroups()).to(dtype)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return head


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_equal_torch(chunk, masked):
    torch.manual_seed(1)
    head = head_of(11, 6)
    x = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (8,))
    targets[2] = -100
    mask = torch.tensor([1, 1, 1, 0, 1, 0, 1, 1]).bool() if masked else None
    entropy = chunked_cross_entropy(head, x, targets, mask, chunk_tokens=chunk)
    (3 * entropy.sum).backward()
    grads = x.grad, head.weight.grad
    x.grad = head.weight.grad = None
    expected_targets = targets if mask is None else targets.masked_fill(~mask, -100)
    expected = cross_entropy(linear(x, head.weight), expected_targets, reduction="sum")
    (3 * expected).backward()
    assert int(entropy.num_tokens) == int((expected_targets != -100).sum())
    torch.testing.assert_close(entropy.sum, expected)
    torch.testing.assert_close(grads, (x.grad, head.weight.grad))


def test_huge_logits_stay_finite():
    head = head_of(7, 4, torch.float32)
    x = (1e4 * torch.randn(5, 4)).requires_grad_()
    entropy = chunked_cross_entropy(head, x, torch.arange(5), None)
    entropy.sum.backward()
    assert entropy.sum.isfinite()
    assert x.grad.isfinite().all()


def test_no_tokens_and_no_valid_tokens_give_zero():
    head = head_of(7, 4, torch.float32)
    for x, mask in ((torch.zeros(0, 4), None), (torch.randn(3, 4), torch.zeros(3).bool())):
        x = x.requires_grad_()
        entropy = chunked_cross_entropy(head, x, torch.zeros(len(x), dtype=torch.int64), mask)
        entropy.sum.backward()
        assert float(entropy.sum.detach()) == int(entropy.num_tokens) == 0
        assert not x.grad.any()
        assert not head.weight.grad.any()


def test_loss_without_gradient_equals_loss_with():
    head = head_of(7, 4, torch.float32)
    x, targets = torch.randn(9, 4), torch.randint(0, 7, (9,))
    with torch.no_grad():
        without = chunked_cross_entropy(head, x, targets, None).sum
    assert torch.equal(without, chunked_cross_entropy(head, x.requires_grad_(), targets, None).sum)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation made."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return out


def test_the_loss_holds_the_logits_of_one_chunk() -> None:
    num_tokens, vocab_size, chunk = 4096, 8192, 1024
    head = head_of(vocab_size, 8, torch.float32)
    x = torch.randn(num_tokens, 8, requires_grad=True)
    targets = torch.zeros(num_tokens, dtype=torch.int64)
    with Largest() as largest:
        chunked_cross_entropy(head, x, targets, None, chunk).sum.backward()
    assert largest.num_bytes == 4 * chunk * vocab_size


@pytest.mark.parametrize("chunk", [None, 128, 500])
def test_gradients_in_bf16_are_within_its_rounding_of_fp64s(chunk: int | None) -> None:
    """The factor, 1/1,021, is no bf16 number: rounded to one it would be wrong by 1.3e-3."""
    torch.manual_seed(2)
    head = head_of(500, 64, torch.bfloat16)
    x = torch.randn(1000, 64).bfloat16().requires_grad_()
    targets = torch.randint(0, 500, (1000,))
    (chunked_cross_entropy(head, x, targets, None, chunk).sum / 1021).backward()
    exact_x, exact_w = x.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    (cross_entropy(linear(exact_x, exact_w), targets, reduction="sum") / 1021).backward()
    for ours, exact in ((x.grad, exact_x.grad), (head.weight.grad, exact_w.grad)):
        assert ours.dtype == torch.bfloat16
        # Rounding errors of single elements are independent; a wrong factor is common to all.
        ratio = float((ours.double() * exact).sum() / exact.square().sum())
        assert ratio == pytest.approx(1.0, abs=3e-4)
        assert float((ours.double() - exact).norm() / exact.norm()) < 1e-2


def test_a_second_backward_pass_is_refused() -> None:
    head = head_of(7, 4, torch.float32)
    entropy = chunked_cross_entropy(head, torch.randn(5, 4), torch.arange(5), None)
    entropy.sum.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        entropy.sum.backward()
