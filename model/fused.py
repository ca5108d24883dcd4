"""Regions of the model compiled by torch.compile, each with its backward pass (runtime.kernels: fused).

A region is a function of tensors. Its forward pass is compiled alone, and its backward pass makes the forward
pass again inside one kernel, so that autograd keeps the region's arguments and nothing else.

A kernel depends on what is computed and on nothing that ran before: it is compiled for an example that always
has the same number of rows, the number is dynamic from the first call, and nothing is timed to choose it, so
that a run that is resumed in the middle has the kernels of one that was not interrupted. torch 2.13 sums more
than 4,096 numbers in another way (_inductor/codegen/cpp.py:2254), and its code may depend on the number that
it sees first: more rows than that have a kernel and an example of their own. Should torch compile one again
all the same, more than a few variants are an error, as is a graph break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor, nn

# N rows: of tokens, routes or heads

RegionName = Literal["norm", "rope", "activation", "swiglu", "router", "permutation", "cross_entropy"]
ALL_REGIONS: frozenset[RegionName] = frozenset(
    ("norm", "rope", "activation", "swiglu", "router", "permutation", "cross_entropy")
)
# What is compiled on each kind of device: on CPUs what is faster so (docs/performance.md), on GPUs all.
REGIONS: dict[str, frozenset[RegionName]] = {
    "cpu": frozenset(("norm", "rope", "activation")),
    "cuda": ALL_REGIONS,
}

_MANY_ROWS = 4096  # torch's threshold
_EXAMPLE_ROWS = {False: 1024, True: 8192}  # by whether there are more than that
_FEWEST_ROWS = 2  # torch compiles sizes of 0 and 1 for themselves
_MOST_VARIANTS = 4  # of one kernel
_MOST_ELEMENTS = 2**31 - 1  # of a tensor whose elements have 32-bit indices
# Nothing is timed: torch 2.13 measures the blocks of triton kernels otherwise, and takes another in each run.
_OPTIONS: dict[str, Any] = {
    "max_autotune": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "triton.autotune_pointwise": False,
}

Function = Callable[..., Any]


class FusedModule(nn.Module):
    """A module that computes the regions in `fused` by their kernels (`use_fused`, model/fused_model.py)."""

    fused: frozenset[RegionName] = frozenset()


@dataclass(frozen=True)
class Rows:
    """How many rows an argument of a kernel has: those of `group`, 0 or 1. Arguments without are weights."""

    group: int = 0


class Kernel:
    """A function of tensors without gradient, compiled for each dtype and width of its arguments: once for
    few rows, and once for many.

    `rows`: of each argument; None: of a fixed shape. Fewer than two rows, or more than a 32-bit index
    reaches, are computed by the function itself.
    """

    def __init__(self, name: str, function: Function, rows: Sequence[Rows | None]) -> None:
        self.name, self.function, self.rows = name, function, tuple(rows)
        self._compiled: dict[tuple[Any, ...], Function] = {}

    def __call__(self, *args: Tensor) -> Any:
        with torch.no_grad():
            args = tuple(arg.detach().contiguous() for arg in args)
            if not self._fits(args):
                return self.function(*args)
            return self._compiled_for(args)(*args)

    def prepare(self, *args: Tensor) -> None:
        """Compiles for arguments of this dtype and width on this device, few or many rows as they have."""
        with torch.no_grad():
            self._compiled_for(args)

    def _fits(self, args: Sequence[Tensor]) -> bool:
        return all(
            len(arg) >= _FEWEST_ROWS and arg.numel() <= _MOST_ELEMENTS
            for arg, rows in zip(args, self.rows, strict=True)
            if rows is not None
        )

    def _compiled_for(self, args: Sequence[Tensor]) -> Function:
        # What torch would compile again for.
        state = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
        key = (*state, *map(self._kind, args, self.rows))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._compile(args, key)
        return compiled

    @staticmethod
    def _kind(arg: Tensor, rows: Rows | None) -> tuple[Any, ...]:
        if rows is None:
            return arg.dtype, arg.device, tuple(arg.shape)
        return arg.dtype, arg.device, tuple(arg.shape[1:]), _has_many_rows(arg)

    def _compile(self, args: Sequence[Tensor], key: tuple[Any, ...]) -> Function:
        compiled: Function = torch.compile(  # type: ignore[call-overload]  # torch 2.13 types two of these not
            self.function,
            fullgraph=True,
            options=_OPTIONS,
            recompile_limit=_MOST_VARIANTS,
            isolate_recompiles=True,
        )
        examples = [self._example(arg, rows) for arg, rows in zip(args, self.rows, strict=True)]
        with _one_compiles(f"{self.name} {key}"):
            compiled(*examples)
        return compiled

    @staticmethod
    def _example(arg: Tensor, rows: Rows | None) -> Tensor:
        if rows is None:
            return torch.zeros(arg.shape, dtype=arg.dtype, device=arg.device)
        shape = (_EXAMPLE_ROWS[_has_many_rows(arg)] * (1 + rows.group), *arg.shape[1:])
        example = torch.zeros(shape, dtype=arg.dtype, device=arg.device)
        torch._dynamo.mark_dynamic(example, 0)
        return example


def _has_many_rows(arg: Tensor) -> bool:
    return len(arg) > _MANY_ROWS


class Region:
    """A differentiable function of tensors as two kernels.

    `has_rows`: for each argument, whether its first dim is rows (dynamic) or it is a weight (fixed);
    `differentiable`: which arguments have a gradient. Every result has rows first, or is a scalar.
    `linear`: arguments whose value no gradient needs, because the function is linear in all of them together,
    each with the place of the result that has its shape; these are not kept.
    """

    def __init__(
        self,
        name: RegionName,
        function: Function,
        has_rows: Sequence[bool],
        differentiable: Sequence[int],
        linear: Mapping[int, int] | None = None,
    ) -> None:
        self.name, self.function = name, function
        self.differentiable = tuple(differentiable)
        self.num_arguments = len(has_rows)
        self.linear = dict(linear or {})
        rows = [Rows() if each else None for each in has_rows]
        self.forward = Kernel(f"{name} forward", _as_tuple(function), rows)
        pull_back = _pull_back(function, self.num_arguments, self.differentiable)
        self._backward_of = lru_cache(
            lambda shapes: Kernel(
                f"{name} backward", pull_back, [*rows, *(Rows() if dims else None for dims in shapes)]
            )
        )

    def __call__(self, *args: Tensor) -> Any:
        assert len(args) == self.num_arguments, f"{self.name} has {self.num_arguments} arguments"
        results = _Apply.apply(self, *args)
        return results[0] if len(results) == 1 else results

    def backward(self, args: Sequence[Tensor], grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the differentiable arguments."""
        kernel: Kernel = self._backward_of(tuple(grad.dim() for grad in grads))
        found: tuple[Tensor, ...] = kernel(*args, *grads)
        return found

    def prepare(self, *args: Tensor) -> None:
        """Compiles both kernels for arguments of this dtype and width, few or many rows as they have."""
        self.forward.prepare(*args)
        with torch.no_grad():
            examples = [Kernel._example(arg, rows) for arg, rows in zip(args, self.forward.rows, strict=True)]
            self.backward(examples, self.forward(*examples))


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: Region, *args: Tensor) -> tuple[Tensor, ...]:
        ctx.region = region
        ctx.save_for_backward(*(arg for index, arg in enumerate(args) if index not in region.linear))
        results: tuple[Tensor, ...] = region.forward(*args)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        region: Region = ctx.region
        kept = iter(ctx.saved_tensors)
        # At any value the gradient is the same: that of the result, which is at hand, has the right shape.
        args = [
            grads[region.linear[index]] if index in region.linear else next(kept)
            for index in range(region.num_arguments)
        ]
        found = dict(zip(region.differentiable, region.backward(args, grads), strict=True))
        needed = enumerate(ctx.needs_input_grad[1:])
        return (None, *(found.get(index) if is_needed else None for index, is_needed in needed))


def _as_tuple(function: Function) -> Function:
    def run(*args: Tensor) -> tuple[Tensor, ...]:
        results = function(*args)
        return results if isinstance(results, tuple) else (results,)

    return run


def _pull_back(function: Function, num_arguments: int, differentiable: tuple[int, ...]) -> Function:
    """Gradients of `function`'s differentiable arguments from its arguments and its results' gradients."""
    function = _as_tuple(function)

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        given, grads = args[:num_arguments], args[num_arguments:]

        def of_differentiable(*moved: Tensor) -> tuple[Tensor, ...]:
            complete = list(given)
            for index, argument in zip(differentiable, moved, strict=True):
                complete[index] = argument
            return function(*complete)

        pull_back = torch.func.vjp(of_differentiable, *(given[index] for index in differentiable))[1]
        found: tuple[Tensor, ...] = pull_back(grads)
        return found

    return run


@lru_cache
def _source_hash() -> str:
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(b"".join(texts)).hexdigest()


@contextmanager
def _one_compiles(what: str) -> Iterator[None]:
    """Of the ranks of a host, the first compiles; the others wait, and then find its result in torch's cache
    (TORCHINDUCTOR_CACHE_DIR, a folder for each user).

    Afterwards nobody waits. In this process itself: torch would start a pool of others beside each rank.
    """
    from torch._inductor import (
        config as inductor_config,
    )  # seconds of imports, which eager kernels do not need
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir(), "switchyard")
    folder.mkdir(parents=True, exist_ok=True)
    name = sha256(f"{torch.__version__} {_source_hash()} {what}".encode()).hexdigest()[:16]
    done = folder / f"{name}.done"
    with inductor_config.patch(compile_threads=1):
        if done.exists():
            yield
            return
        with FileLock(folder / f"{name}.lock"):
            yield
            done.touch()
