"""Packed documents: a sequence of several documents equals one sequence for each, in loss and gradients."""

import inspect
import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from model import document_attention
from model.document_attention import HAS_VARLEN, attend_within, find_documents
from tests.support.model_cases import KINDS, config_of, make_model, relative, tokens

# Not "top1_normalized": a gate that is always 1 gives routers no gradient, only rounding.
DROPLESS = [kind for kind in KINDS if kind not in ("capacity", "top1_normalized")]
LENGTHS = ((3, 1, 5), (9,), (4, 5))  # of the documents of three sequences


def positions_of(lengths) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def test_documents_begin_where_a_position_does_not_follow():
    documents = find_documents(positions_of(LENGTHS))
    assert documents.lengths == (3, 1, 5, 9, 4, 5)
    assert documents.offsets.tolist() == [0, 3, 4, 9, 18, 22, 27]
    assert find_documents(torch.arange(6).expand(2, -1)) is None
    assert find_documents(torch.arange(7, 13)[None]) is None  # one document that begins elsewhere


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_attention_inside_documents_equals_a_block_diagonal_causal_mask(num_kv_heads):
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(3, 4, 9, 8, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(3, num_kv_heads, 9, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    number_BS = torch.tensor([[i for i, n in enumerate(row) for _ in range(n)] for row in LENGTHS])
    allowed = (number_BS[:, :, None] == number_BS[:, None, :]) & torch.ones(9, 9).tril().bool()
    scores = q @ k.repeat_interleave(4 // num_kv_heads, 1).transpose(2, 3) / 8**0.5
    weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    expected = weights @ v.repeat_interleave(4 // num_kv_heads, 1)
    documents = find_documents(positions_of(LENGTHS))
    found = attend_within(q, k, v, documents, is_grouped=num_kv_heads != 4)
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("kind", DROPLESS)
def test_packed_documents_equal_one_sequence_each(kind):
    """Cross-entropy and every gradient, through the interface of Hugging Face."""
    model = make_model(config_of(**KINDS[kind]), torch.float64)
    ids, _ = tokens(3, 9)
    labels = ids.clone()
    loss, num_targets = torch.zeros((), dtype=torch.float64), 0
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            document = ids[row : row + 1, start : start + length]
            logits = model(document, use_cache=False).logits[0, :-1]
            loss = loss + cross_entropy(logits, document[0, 1:], reduction="sum")
            num_targets += length - 1
            labels[row, start] = -100
            start += length
    (loss / num_targets).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    found = model(ids, position_ids=positions_of(LENGTHS), labels=labels)
    assert found.past_key_values is None
    assert relative(found.loss, loss / num_targets) < 1e-12
    found.loss.backward()
    for name, parameter in model.named_parameters():
        assert relative(parameter.grad, expected[name]) < 1e-10, name


def test_packed_documents_have_no_cache():
    model = make_model(config_of())
    ids, _ = tokens(3, 9)
    with pytest.raises(ValueError, match="use_cache=False"):
        model(ids, position_ids=positions_of(LENGTHS), use_cache=True)


def test_positions_of_one_document_change_nothing():
    model = make_model(config_of())
    ids, _ = tokens(3, 9)
    assert torch.equal(model(ids, position_ids=torch.arange(9)[None]).logits, model(ids).logits)


@pytest.mark.skipif(not HAS_VARLEN, reason="torch before 2.12 has no varlen_attn with grouped queries")
def test_kernel_for_all_documents_is_called_as_torch_documents_it(monkeypatch):
    """Without a GPU: in the kernel's place its definition, with the kernel's own signature."""
    signature = inspect.signature(document_attention.varlen.varlen_attn)
    called = []

    def varlen_attn(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        called.append(given)
        assert given["window_size"] == (-1, 0)
        assert given["enable_gqa"]
        assert given["cu_seq_q"].dtype == given["cu_seq_k"].dtype == torch.int32
        parts = []
        bounds = given["cu_seq_q"].tolist()
        assert given["max_q"] == given["max_k"] >= max(b - a for a, b in itertools.pairwise(bounds))
        for start, stop in itertools.pairwise(bounds):
            q, k, v = (given[name][start:stop] for name in ("query", "key", "value"))
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
            scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
            causal = torch.ones(scores.shape[1:]).tril().bool()
            weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
            parts.append(torch.einsum("hqk,khd->qhd", weights, v))
        return torch.cat(parts)

    generator = torch.Generator().manual_seed(1)
    q = torch.randn(3, 4, 9, 8, generator=generator)
    k, v = (torch.randn(3, 2, 9, 8, generator=generator) for _ in range(2))
    documents = find_documents(positions_of(LENGTHS))
    expected = attend_within(q, k, v, documents, is_grouped=True)
    assert not called
    monkeypatch.setattr(document_attention.varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(document_attention, "has_varlen_kernel", lambda x: True)
    assert relative(attend_within(q, k, v, documents, is_grouped=True), expected) < 1e-6
    assert len(called) == 1


def test_batches_of_transformers_flattening_collator_are_packed_documents():
    """Its labels are -100 where a document begins, its positions begin again."""
    from transformers import DataCollatorWithFlattening

    model = make_model(config_of(), torch.float64)
    ids, _ = tokens(2, 9)
    documents = [ids[0, :4].tolist(), ids[0, 4:].tolist(), ids[1, :6].tolist()]
    batch = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": d} for d in documents])
    sums = []
    for document in documents:
        given = torch.tensor([document])
        logits = model(given, use_cache=False).logits[0, :-1]
        sums.append(cross_entropy(logits, given[0, 1:], reduction="sum"))
    expected = torch.stack(sums).sum() / sum(len(document) - 1 for document in documents)
    assert relative(model(**batch).loss, expected) < 1e-12
