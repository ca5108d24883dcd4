"""Pipeline send/recv: activations forward and gradients back between neighboring stages, asynchronously."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from model.e4m3 import SCALE_BYTES, pack_rows, unpack_rows
from planner import Plan, Stage
from planner.topology.stage_boundary import (
    MAX_CHUNKS,
    SENDS_IN_FLIGHT,
    Interval,
    TransferChunk,
    find_columns,
    find_first_row,
    list_transfers,
    split_into_chunks,
)
from runtime.parallel.groups import BoundaryGroups, RankGroups
from runtime.parallel.pipeline_schedule import Action

Payload = Literal["activations", "gradients"]

# R sequences of a chunk, S tokens of each, C columns of the hidden dim that this rank sends or receives


@dataclass(kw_only=True)
class _Arriving:
    """A chunk being received: its tensor, the works to wait for, and the copies to make afterwards."""

    x_RSC: Tensor
    works: list[dist.Work] = field(default_factory=list)
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Leaving:
    """A chunk being sent; its tensors are kept until then, so that their memory is not reused."""

    works: list[dist.Work]
    tensors: list[Tensor]


class P2PChannel:
    """P2P transfers with the ranks of a neighboring stage, cut as the plan says.

    A channel sends one payload and receives the other. Chunks of activations are sent first to last, those of
    gradients last to first, which is autograd's order: NCCL has no tags, so both ends must use one order.
    `sent_bytes` counts what this rank has sent. `sends_float8`: tokens' columns travel as e4m3 with a scale
    for each token and piece. `anchor`: makes autograd run the backward pass of what was received.
    """

    def __init__(
        self,
        *,
        sends: Payload,
        pieces: Sequence[TransferChunk],
        chunks: Sequence[Interval],
        columns: Interval,
        first_row: int,
        seq_length: int,
        dtype: torch.dtype,
        device: torch.device,
        groups: BoundaryGroups,
        sends_float8: bool = False,
    ) -> None:
        self.chunks = tuple(chunks)
        self.sent_bytes = 0
        self.anchor = torch.zeros((), requires_grad=True)
        self._sends: Payload = sends
        self._receives: Payload = "gradients" if sends == "activations" else "activations"
        self._columns, self._seq_length = columns, seq_length
        self._dtype, self._device, self._groups, self._clock = dtype, device, groups, groups.clock
        self._first_row, self._sends_float8 = first_row, sends_float8
        # Each piece with its number among those between the same two ranks.
        self._pieces: list[list[tuple[int, TransferChunk]]] = [[] for _ in chunks]
        count: dict[int, int] = {}
        for piece in pieces:
            number = count[self._peer(piece)] = count.get(self._peer(piece), -1) + 1
            assert number < MAX_CHUNKS, f"no tag is left for {piece}"
            place = piece.rows[0] - first_row
            (chunk,) = (i for i, (start, stop) in enumerate(chunks) if start <= place < stop)
            self._pieces[chunk].append((number, piece))
        self._arriving: dict[int, list[_Arriving | None]] = {}
        self._leaving: dict[int, list[_Leaving]] = {}

    def warm_up(self) -> None:
        """Exchanges one element each way with every peer. Collective over both stages.

        NCCL connects two ranks at their first message, and the first of them blocks until the other is there.
        Here all connect at once, before a step in which some wait for others, and a broken link is found
        before the first step.
        """
        peers = sorted({self._peer(piece) for pieces in self._pieces for _, piece in pieces})
        payloads: tuple[Payload, ...] = ("activations", "gradients")
        for payload in payloads:
            kind = dist.isend if payload == self._sends else dist.irecv
            group = self._group(payload)
            tensors = [torch.zeros(1, dtype=self._dtype, device=self._device) for _ in peers]
            operations = [
                dist.P2POp(kind, tensor, peer, group) for tensor, peer in zip(tensors, peers, strict=True)
            ]
            for work in dist.batch_isend_irecv(operations):
                work.wait()

    def post_recv(self, micro_batch: int) -> None:
        """Posts the receives of a micro-batch; does not wait."""
        if micro_batch not in self._arriving:
            chunks: list[_Arriving | None] = [None] * len(self.chunks)
            self._arriving[micro_batch] = chunks
            for chunk in self._order(self._receives):
                chunks[chunk] = self._post_chunk(micro_batch, chunk)

    def recv(self, micro_batch: int, chunk: int) -> Tensor:
        """A received chunk, [R, S, C]; waits for it.

        Raises:
            RuntimeError: if it does not arrive within the world's timeout.
        """
        arriving = self._arriving[micro_batch][chunk]
        assert arriving is not None, f"chunk {chunk} of micro-batch {micro_batch} was received before"
        with self._clock.phase("stage_wait"):
            for work in arriving.works:
                work.wait()
            for target, source in arriving.copies:
                target.copy_(unpack_rows(source, self._dtype) if self._sends_float8 else source)
        self._groups.log.gets(arriving.x_RSC)
        self._arriving[micro_batch][chunk] = None
        if not any(self._arriving[micro_batch]):
            del self._arriving[micro_batch]
        return arriving.x_RSC

    def send(self, micro_batch: int, chunk: int, x_RSC: Tensor) -> None:
        """Sends a chunk, [R, S, C]; waits only where too many micro-batches are still being sent."""
        assert x_RSC.dtype == self._dtype, f"{x_RSC.dtype} is sent where {self._dtype} is expected"
        self._groups.log.gives(x_RSC)
        with self._clock.phase("stage_wait"):
            for earlier in [m for m in self._leaving if m <= micro_batch - SENDS_IN_FLIGHT]:
                self._wait_sent(earlier)
            gone = self._leaving.setdefault(micro_batch, [])
            assert chunk == self._order(self._sends)[len(gone)], f"chunk {chunk} is sent out of order"
            operations = []
            for number, piece in self._in_order(chunk, self._sends):
                part = self._view(x_RSC, chunk, piece)
                part = pack_rows(part) if self._sends_float8 else part.contiguous()
                operations.append(self._operation(dist.isend, part, piece, number, micro_batch, self._sends))
                self.sent_bytes += part.numel() * part.element_size()
            works = dist.batch_isend_irecv(operations)
            gone.append(_Leaving(works=works, tensors=[operation.tensor for operation in operations]))

    def finish(self) -> None:
        """Waits for all sends: between steps no transfer is in flight."""
        with self._clock.phase("stage_wait"):
            for micro_batch in list(self._leaving):
                self._wait_sent(micro_batch)
        assert not self._arriving, (
            f"receives of micro-batches {sorted(self._arriving)} were posted and not used"
        )

    def _wait_sent(self, micro_batch: int) -> None:
        for chunk in self._leaving.pop(micro_batch):
            for work in chunk.works:
                work.wait()

    def _post_chunk(self, micro_batch: int, chunk: int) -> _Arriving:
        start, stop = self.chunks[chunk]
        width = self._columns[1] - self._columns[0]
        shape = (stop - start, self._seq_length, width)
        arriving = _Arriving(x_RSC=torch.empty(shape, dtype=self._dtype, device=self._device))
        operations = []
        for number, piece in self._in_order(chunk, self._receives):
            target = buffer = self._view(arriving.x_RSC, chunk, piece)
            if self._sends_float8:
                packed = (*target.shape[:-1], target.shape[-1] + SCALE_BYTES)
                buffer = torch.empty(packed, dtype=torch.uint8, device=self._device)
                arriving.copies.append((target, buffer))
            elif not target.is_contiguous():
                buffer = torch.empty_like(target, memory_format=torch.contiguous_format)
                arriving.copies.append((target, buffer))
            operations.append(self._operation(dist.irecv, buffer, piece, number, micro_batch, self._receives))
        arriving.works = dist.batch_isend_irecv(operations)
        return arriving

    def _order(self, payload: Payload) -> Sequence[int]:
        chunks = range(len(self.chunks))
        return chunks if payload == "activations" else chunks[::-1]

    def _in_order(self, chunk: int, payload: Payload) -> Sequence[tuple[int, TransferChunk]]:
        return self._pieces[chunk] if payload == "activations" else self._pieces[chunk][::-1]

    def _view(self, x_RSC: Tensor, chunk: int, piece: TransferChunk) -> Tensor:
        first = self._first_row + self.chunks[chunk][0]
        rows = slice(piece.rows[0] - first, piece.rows[1] - first)
        columns = slice(piece.columns[0] - self._columns[0], piece.columns[1] - self._columns[0])
        return x_RSC[rows, :, columns]

    def _operation(
        self, kind: Any, tensor: Tensor, piece: TransferChunk, number: int, micro_batch: int, payload: Payload
    ) -> dist.P2POp:
        # gloo tells messages apart by tags; NCCL has none and keeps the order in each group.
        tag = 2 * (micro_batch * MAX_CHUNKS + number) + (payload == "gradients")
        return dist.P2POp(kind, tensor, self._peer(piece), self._group(payload), tag)

    def _group(self, payload: Payload) -> dist.ProcessGroup | None:
        return self._groups.activations if payload == "activations" else self._groups.gradients

    def _peer(self, piece: TransferChunk) -> int:
        return piece.receiver if self._sends == "activations" else piece.sender


@dataclass(frozen=True, kw_only=True)
class P2PChannels:
    """A rank's channels to the stages before and after its own; None at the ends of the model.

    place: of the stage among `num_stages`, in the order in which activations flow.
    """

    place: int
    num_stages: int
    incoming: P2PChannel | None
    outgoing: P2PChannel | None

    def post_recv(self, actions: Sequence[Action]) -> None:
        """Posts the receives that these actions will wait for."""
        for action in actions:
            channel = self.incoming if action.kind == "forward" else self.outgoing
            if channel is not None:
                channel.post_recv(action.micro_batch)

    def finish(self) -> None:
        for channel in (self.incoming, self.outgoing):
            if channel is not None:
                channel.finish()


def make_channels(plan: Plan, groups: RankGroups, device: torch.device) -> P2PChannels:
    """The channels of this rank, warmed up. Collective over the plan's world."""
    place = plan.stages.index(groups.stage)
    before = plan.stages[place - 1] if place > 0 else None
    after = plan.stages[place + 1] if place + 1 < len(plan.stages) else None
    channels = P2PChannels(
        place=place,
        num_stages=len(plan.stages),
        incoming=None if before is None else _make_channel(plan, groups, before, device, is_incoming=True),
        outgoing=None if after is None else _make_channel(plan, groups, after, device, is_incoming=False),
    )
    # From the first boundary to the last: no stage waits for one that waits for it.
    for channel in (channels.incoming, channels.outgoing):
        if channel is not None:
            channel.warm_up()
    return channels


def _make_channel(
    plan: Plan, groups: RankGroups, other: Stage, device: torch.device, *, is_incoming: bool
) -> P2PChannel:
    stage, rank = groups.stage, groups.rank
    boundary = groups.incoming if is_incoming else groups.outgoing
    assert boundary is not None, f"rank {rank} has no groups with the stage {other.name}"
    num_sequences = plan.batch.global_batch // plan.batch.accumulation
    hidden_size = plan.strategy.model.hidden_size
    before, after = (other, stage) if is_incoming else (stage, other)
    return P2PChannel(
        sends="gradients" if is_incoming else "activations",
        pieces=list_transfers(rank, before, after, num_sequences, hidden_size),
        chunks=split_into_chunks(stage, other, num_sequences),
        columns=find_columns(stage, rank, hidden_size),
        first_row=find_first_row(stage, rank, num_sequences),
        seq_length=plan.strategy.training.seq_length,
        dtype=torch.float32 if plan.strategy.training.precision == "fp32" else torch.bfloat16,
        device=device,
        groups=boundary,
        sends_float8=plan.strategy.runtime.fp8_payload,
    )
