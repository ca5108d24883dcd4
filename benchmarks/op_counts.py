"""Operations of the real decoder, counted one by one: a dispatch mode over one forward and backward pass.

Counted are all operations that are no views; bytes are what their inputs and outputs hold, of those that are
no GEMMs, attention or collectives. Each belongs to the innermost module at work in the forward pass; what
backward does belongs to the module whose node of the autograd graph is running.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from model import collectives, expert_exchange, modeling_switchyard, moe
from model.attention import Attention
from model.collectives import Group, ModelGroups
from model.embedding import VocabEmbedding
from model.experts import Experts
from model.mlp import MLP
from model.modeling_switchyard import SwitchyardForCausalLM
from model.norm import HeadNorm, ProjectionNorm, RMSNorm
from model.router import Router
from planner import Strategy
from planner.counts.head_chunk import head_chunk_tokens
from runtime.training.training_model import model_config

# What is in no module: residual sums, copies around TP collectives. Autograd's sum of two gradients counts
# for the module that made the later of them.
COPIES = "copies"
_MODULES: dict[type, str] = {
    RMSNorm: "norms",
    HeadNorm: "norms",
    ProjectionNorm: "norms",
    Attention: "rope",
    Router: "router",
    Experts: "experts",
    MLP: "mlp",
    VocabEmbedding: "embedding",
    nn.Embedding: "embedding",
}
_FUNCTIONS = (
    (moe, "dispatch", "dispatch"),
    (modeling_switchyard, "chunked_cross_entropy", "head"),
    (modeling_switchyard, "rotations", "embedding"),  # made once a micro-batch, as the lookup is
    (modeling_switchyard, "sum_routings", "embedding"),
    (collectives, "_all_reduce", COPIES),
    (collectives, "all_gather_shares", COPIES),
)
_GEMMS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "linear",
    "matmul",
    "_grouped_mm",
    "scaled_dot_product",
    "attention",
)
# They read as many rows as they write, however many there are.
_READS_ROWS = ("index_select", "gather", "embedding", "index")
_ADDS_ROWS = ("scatter_add_", "scatter_", "index_add_")
_TP_NODES = ("_CopyToTp", "_ReduceFromTp", "_SplitToTp", "_GatherFromTp")


@dataclass
class Count:
    """operations: issued, GEMMs included. num_bytes: read and written by those that are no GEMMs."""

    operations: float = 0.0
    num_bytes: float = 0.0


@dataclass
class Passes:
    """Counts by module, forward and backward."""

    forward: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    backward: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))


class CountingMode(TorchDispatchMode):
    """Counts while it is active; `region` names the module at work."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.passes = Passes()
        self.is_backward = False
        self._stack = [COPIES]
        self._starts = [(0, COPIES)]

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        self._stack.append(name)
        self._starts.append((_get_sequence_nr(), name))
        try:
            yield
        finally:
            self._stack.pop()
            self._starts.append((_get_sequence_nr(), self._stack[-1]))

    def _module(self) -> str:
        if not self.is_backward:
            return self._stack[-1]
        node = torch._C._current_autograd_node()
        if node is None or node.name().startswith(("torch::autograd::AccumulateGrad", *_TP_NODES)):
            return COPIES
        number = node._sequence_nr()
        return self._starts[bisect_right(self._starts, number, key=lambda start: start[0]) - 1][1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        inputs = list(_tensors((args, kwargs or {})))
        outputs = list(_tensors(result))
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        if (outputs and not writes and _is_view(inputs, outputs)) or name in ("detach", "set_"):
            return result
        passes = self.passes.backward if self.is_backward else self.passes.forward
        count = passes[self._module()]
        count.operations += 1
        if func.namespace == "c10d" or any(gemm in name for gemm in _GEMMS) or name.startswith("empty"):
            return result
        if name.startswith(("new_empty", "_local_scalar")):
            return result
        count.num_bytes += _bytes_moved(name, inputs, outputs, writes=writes)
        return result


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, (list, tuple)):
        for one in found:
            yield from _tensors(one)
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))


def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    held = {one.untyped_storage().data_ptr() for one in inputs if one.numel()}
    return bool(held) and all(one.untyped_storage().data_ptr() in held for one in outputs)


def _bytes_of(one: Tensor) -> float:
    """Without what is only repeated by a stride of 0."""
    elements = 1
    for size, stride in zip(one.shape, one.stride(), strict=True):
        elements *= size if stride else min(size, 1)
    return float(elements * one.element_size())


def _bytes_moved(name: str, inputs: list[Tensor], outputs: list[Tensor], *, writes: bool) -> float:
    if name in _READS_ROWS:
        indices = sum(_bytes_of(one) for one in inputs if one.dtype == torch.int64 and one is not inputs[0])
        return indices + 2 * sum(map(_bytes_of, outputs))
    if name in _ADDS_ROWS:
        index = next(one for one in inputs if one.dtype == torch.int64 and one is not inputs[0])
        return _bytes_of(index) + 3.0 * index.numel() * inputs[0].element_size()
    read = sum(map(_bytes_of, inputs))
    if name in ("zero_", "fill_"):
        return read  # written, not read
    if name == "copy_":
        return _bytes_of(inputs[0]) + _bytes_of(inputs[1])
    return read + sum(map(_bytes_of, outputs))


def count_passes(strategy: Strategy, *, tp: int = 1, ep: int = 1) -> Passes:
    """One micro-batch of the complete model through rank 0 of tp x ep ranks, whose peers are not there."""
    training = strategy.training
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    with _lonely_world(max(tp, ep)):
        groups = ModelGroups(tp=_group(tp), ep=_group(ep))
        with patch.object(SwitchyardForCausalLM, "init_weights"):  # its draws take longer than the passes
            model = SwitchyardForCausalLM(model_config(strategy), groups=groups)
        nn.Module.to(model, dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.02)
        model.train()
        model.head_chunk_tokens = head_chunk_tokens(strategy, tp)
        shape = (training.micro_batch, training.seq_length)
        ids = torch.randint(strategy.model.vocab_size, shape)
        mode = CountingMode()
        with _named_regions(model, mode), mode:
            x, sums = model.run_layers(model.embed(ids))
            entropy = model.cross_entropy(x, ids)
            loss = entropy.sum + sums.aux_loss + sums.z_loss
            mode.is_backward = True
            loss.backward()
    return mode.passes


def _group(size: int) -> Group | None:
    if size == 1:
        return None
    ranks = tuple(range(size))
    return Group(process_group=dist.new_group(list(ranks)), ranks=ranks, rank=0, size=size)


@contextmanager
def _lonely_world(size: int) -> Iterator[None]:
    """A world whose collectives return at once: torch's own fake process group."""
    if size == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _named_regions(model: SwitchyardForCausalLM, mode: CountingMode) -> Iterator[None]:
    """Everything that the model does while inside is counted under its module's name."""

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with mode.region(name):
                return function(*args, **kwargs)

        return inside

    with ExitStack() as stack:
        for module in model.modules():
            name = _MODULES.get(type(module))
            if name is not None:
                stack.enter_context(patch.object(module, "forward", named(name, module.forward)))
        for place, function, name in _FUNCTIONS:
            stack.enter_context(patch.object(place, function, named(name, getattr(place, function))))
        # Peers send what this rank sends them: what is received has the sizes of a balanced exchange.
        stack.enter_context(
            patch.object(expert_exchange, "exchange_counts", lambda counts, group: counts.clone())
        )
        stack.enter_context(
            patch.object(expert_exchange, "exchange_routes", lambda x, send, receive, group: x.clone())
        )
        yield
