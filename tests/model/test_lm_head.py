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


def test_the_loss_never_holds_all_logits():
    num_tokens, vocab_size = 4096, 8192
    head = head_of(vocab_size, 8, torch.float32)
    x = torch.randn(num_tokens, 8, requires_grad=True)
    with Largest() as largest:
        chunked_cross_entropy(head, x, torch.zeros(num_tokens, dtype=torch.int64), None).sum.backward()
    assert largest.num_bytes <= 32 * 2**20 < num_tokens * vocab_size * 4
