"""Bytes that a rank sends to others, counted where torch dispatches collectives, whoever calls them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The arguments that hold what a rank puts in, by torch's names for them.
_INPUTS = ("input", "input_tensor", "input_tensors", "tensors")
_ROW_BYTES = 32  # narrower rows of an all-to-all are gates or lists of routes


class SentBytes(TorchDispatchMode):
    """Adds up collectives inside `with`, in bytes.

    rows: all-to-alls of token rows; lists: of counts, gates and lists of routes; other: everything else. An
    all-to-all counts what leaves the rank. An all-reduce counts a ring's 2·(n - 1)/n times what a rank puts
    in, reduce and reduce-scatter (n - 1)/n, all-gather n - 1.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.rows = self.lists = self.other = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith(("c10d::", "_c10d_functional::")):
            self._count(name, func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        kind = name.partition("::")[2].strip("_")
        if "alltoall" in kind or "all_to_all" in kind:
            self._count_all_to_all(given)
            return
        size = _group_size(given)
        tensors = _tensors(_input(given))
        num_bytes = sum(t.numel() * t.element_size() for t in tensors)
        if "allreduce" in kind or "all_reduce" in kind:
            self.other += 2 * num_bytes * (size - 1) // size
        elif "reduce_scatter" in kind or kind == "reduce":
            self.other += num_bytes * (size - 1) // size
        elif "allgather" in kind or "all_gather" in kind:
            self.other += num_bytes * (size - 1)

    def _count_all_to_all(self, given: dict[str, Any]) -> None:
        group = _group(given)
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        if "output_tensors" in given:  # the list form: a tensor for each rank
            parts = _tensors(given["input_tensors"])
            sent, leaving = parts[0], sum(p.numel() for at, p in enumerate(parts) if at != rank)
        else:
            sent = _input(given)
            splits = given.get("input_split_sizes") or [len(sent) // size] * size
            leaving = (len(sent) - splits[rank]) * (sent.numel() // max(1, len(sent)))
        row_bytes = sent.numel() // max(1, len(sent)) * sent.element_size()
        is_list = sent.dtype in (torch.int64, torch.int32) or row_bytes < _ROW_BYTES
        if is_list:
            self.lists += leaving * sent.element_size()
        else:
            self.rows += leaving * sent.element_size()


def _input(given: dict[str, Any]) -> Any:
    return next((given[name] for name in _INPUTS if name in given), None)  # a barrier has none


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value or () for t in _tensors(item)]


def _group(given: dict[str, Any]) -> dist.ProcessGroup:
    if "group_name" in given:
        from torch.distributed import distributed_c10d

        found: dist.ProcessGroup = distributed_c10d._resolve_process_group(given["group_name"])  # type: ignore[attr-defined]  # not in __all__
        return found
    group: dist.ProcessGroup = dist.ProcessGroup.unbox(given["process_group"])
    return group


def _group_size(given: dict[str, Any]) -> int:
    found = given.get("process_group") is not None or "group_name" in given
    return dist.get_world_size(_group(given)) if found else 1
