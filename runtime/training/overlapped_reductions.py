"""Gradient reductions beside the backward pass that makes the gradients (runtime.overlap_reduce).

DeepSpeed 0.19.8 reduces a full bucket and waits for it (stage_1_and_2.py:2205 reduce_ipg_grads). Its own
overlap_comm waits likewise on a CPU, and on a GPU reduces in the group that other collectives use. Here the
all-reduces of a full bucket are started, in process groups of their own, and gradients go to a second bucket
meanwhile. The next full bucket waits for them, or the end of backward; then DeepSpeed does what it does after
a reduction. Buckets and their order are the same as without, and so are the bits.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import IPGBucket
from torch import Tensor

from runtime.parallel.groups import RankGroups


@dataclass(frozen=True, kw_only=True)
class _AllReduce:
    """One of a bucket's all-reduces. copy: from `flat` to where DeepSpeed wants it."""

    flat: Tensor
    work: dist.Work
    copy: partial[None]


@dataclass(frozen=True, kw_only=True)
class _InFlight:
    """A bucket that is being reduced."""

    bucket: IPGBucket
    started: list[_AllReduce]


class OverlappedReductions:
    """Takes the place of reductions in the ZeRO 2 optimizer. One bucket is in flight at most."""

    def __init__(self, engine: DeepSpeedEngine, groups: RankGroups) -> None:
        optimizer = self._optimizer = engine.optimizer
        assert optimizer.partition_gradients, "ZeRO 2 (planner.rules.not_implemented)"
        assert optimizer.contiguous_gradients, "planner.plan.ds_config"
        assert not optimizer.overlap_comm, "planner.plan.ds_config"
        assert groups.reductions is not None, "groups of a plan without runtime.overlap_reduce"
        self._groups = {
            groups.data.process_group: groups.reductions.data,
            groups.edp.process_group: groups.reductions.edp,
        }
        self._reduce = optimizer.reduce_ipg_grads
        self._average = optimizer.average_tensor
        self._copy = optimizer.allreduce_and_copy_with_multiple_ranks
        self._started: list[_AllReduce] = []
        self._in_flight: dict[torch.dtype, _InFlight] = {}
        self._reduced: Tensor | None = None
        optimizer.reduce_ipg_grads = self._reduce_bucket
        optimizer.average_tensor = self._wait_and_copy
        optimizer.allreduce_and_copy_with_multiple_ranks = self._start_one
        optimizer.allreduce_bucket = lambda *_, **__: self._reduced

    def _reduce_bucket(self, comm_dtype: torch.dtype | None = None) -> None:
        """A bucket is full; without a dtype, backward has ended."""
        for dtype in self._optimizer.ipg_buckets if comm_dtype is None else (comm_dtype,):
            spare = self._finish(dtype)
            bucket = self._optimizer.ipg_buckets[dtype]
            if not bucket.elements:
                continue
            (buffer,) = bucket.buffer
            self._start(dtype)
            if comm_dtype is None:
                self._finish(dtype)
            else:
                bucket.buffer = [torch.empty_like(buffer) if spare is None else spare]

    def _start(self, dtype: torch.dtype) -> None:
        """Starts to reduce what the bucket holds, and leaves it empty, without a buffer."""
        bucket = self._optimizer.ipg_buckets[dtype]
        assert dtype not in self._optimizer.extra_large_param_to_reduce, "planner.plan.ds_config: buckets"
        self._started = []
        self._average(bucket.buffer[0].narrow(0, 0, bucket.elements), dtype)
        full = IPGBucket(
            buffer=bucket.buffer,
            params=list(bucket.params),
            grads=list(bucket.grads),
            elements=bucket.elements,
            has_moe_params=bucket.has_moe_params,
        )
        self._in_flight[dtype] = _InFlight(bucket=full, started=self._started)
        bucket.clear()
        bucket.buffer = []

    def _finish(self, dtype: torch.dtype) -> Tensor | None:
        """Waits for the bucket in flight and has DeepSpeed take its gradients. The buffer, which is free."""
        in_flight = self._in_flight.pop(dtype, None)
        if in_flight is None:
            return None
        buckets = self._optimizer.ipg_buckets
        filling, buckets[dtype] = buckets[dtype], in_flight.bucket
        self._started = in_flight.started
        self._reduce(comm_dtype=dtype)
        buckets[dtype] = filling
        buffer: Tensor = in_flight.bucket.buffer[0]
        return buffer

    def _start_one(
        self, tensors: list[Tensor], wire: torch.dtype, *, process_group: dist.ProcessGroup, **options: Any
    ) -> None:
        """One all-reduce; `tensors` are views of a bucket's buffer."""
        flat = self._optimizer.flatten(tensors).to(wire)
        work = dist.all_reduce(flat, group=self._groups[process_group], async_op=True)
        copy = partial(self._copy, tensors, wire, process_group=process_group, **options)
        self._started.append(_AllReduce(flat=flat, work=work, copy=copy))

    def _wait_and_copy(self, tensor: Tensor, wire: torch.dtype) -> None:
        """What DeepSpeed calls for a reduction, and finds started already."""
        for one in self._started:
            one.work.wait()
            self._reduced = one.flat
            one.copy()
        self._started, self._reduced = [], None
