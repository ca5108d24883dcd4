"""A small training state, cut into pieces as layouts cut it, and ranks that are threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.checkpoint.manifest import CheckpointInfo, Meta
from runtime.checkpoint.reader import Reader
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import write
from runtime.parallel.collective_actions import Ranks

META = Meta(
    attempt=3,
    model_fingerprint="model-1",
    recipe_fingerprint="recipe-1",
    layout={"ep": 2, "tp": 1},
    counters={"optimizer_steps": 99, "horizon": 150},
)
SHAPES = {
    "model.embed_tokens.weight": (16, 6),
    "model.layers.0.mlp.experts.up": (4, 5, 3),
    "model.norm.weight": (6,),
}
KINDS = {"weight": torch.bfloat16, "master": torch.float32, "exp_avg": torch.float32}


def full_state(seed: int = 0) -> dict[tuple[str, str], Tensor]:
    """Every global tensor of the model by (name, kind)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        (name, kind): torch.randn(shape, generator=generator).to(dtype)
        for name, shape in SHAPES.items()
        for kind, dtype in KINDS.items()
    }


def full_piece(name: str, kind: str, tensor: Tensor) -> OwnedPiece:
    shape = tuple(tensor.shape)
    return OwnedPiece(
        name=name, kind=kind, global_shape=shape, offsets=(0,) * len(shape), shape=shape, tensor=tensor
    )


def slice_piece(name: str, kind: str, tensor: Tensor, dim: int, rank: int, size: int) -> OwnedPiece:
    """The rank-th of `size` equal slices along `dim`."""
    shape = list(tensor.shape)
    shape[dim] //= size
    offsets = [0] * len(shape)
    offsets[dim] = rank * shape[dim]
    return OwnedPiece(
        name=name,
        kind=kind,
        global_shape=tuple(tensor.shape),
        offsets=tuple(offsets),
        shape=tuple(shape),
        tensor=tensor.narrow(dim, offsets[dim], shape[dim]),
    )


def fragment(piece: OwnedPiece, start: int, stop: int) -> OwnedPiece:
    """A range of a piece's flattened slice, as ZeRO holds it."""
    return OwnedPiece(
        name=piece.name,
        kind=piece.kind,
        global_shape=piece.global_shape,
        offsets=piece.offsets,
        shape=piece.shape,
        flat=(start, stop),
        tensor=piece.tensor.reshape(-1)[start:stop],
    )


def one_rank(state: dict[tuple[str, str], Tensor]) -> list[list[OwnedPiece]]:
    return [[full_piece(name, kind, tensor) for (name, kind), tensor in state.items()]]


def sliced(state: dict[tuple[str, str], Tensor]) -> list[list[OwnedPiece]]:
    """Two ranks: experts by dim 0, the embedding by columns, the norm on rank 0 alone."""
    owned: list[list[OwnedPiece]] = [[], []]
    for (name, kind), tensor in state.items():
        if "norm" in name:
            owned[0].append(full_piece(name, kind, tensor))
            continue
        for rank in range(2):
            owned[rank].append(slice_piece(name, kind, tensor, int("embed" in name), rank, 2))
    return owned


def fragments(state: dict[tuple[str, str], Tensor]) -> list[list[OwnedPiece]]:
    """Four ranks, ZeRO over pairs: each half of an expert slice cut at an odd place; dense ones in four."""
    owned: list[list[OwnedPiece]] = [[], [], [], []]
    for (name, kind), tensor in state.items():
        if "experts" in name:
            for half in range(2):
                piece = slice_piece(name, kind, tensor, 0, half, 2)
                size = prod(piece.shape)
                owned[half].append(fragment(piece, 0, 7))
                owned[half + 2].append(fragment(piece, 7, size))
            continue
        piece = full_piece(name, kind, tensor)
        cuts = [0, 1, 2, 5, prod(piece.shape)]
        for rank in range(4):
            owned[rank].append(fragment(piece, cuts[rank], cuts[rank + 1]))
    return owned


LAYOUTS = {"one_rank": one_rank, "sliced": sliced, "fragments": fragments}


def together(world_size: int, fn: Callable[[Ranks], Any]) -> list[Any]:
    """Run `fn` on `world_size` threads with collectives; one that a rank misses fails after ten seconds."""
    barrier = threading.Barrier(world_size, timeout=10)
    slots: list[Any] = [None] * world_size

    def ranks_of(rank: int) -> Ranks:
        def exchange(obj: Any) -> list[Any]:
            slots[rank] = obj
            barrier.wait()
            seen = list(slots)
            barrier.wait()
            return seen

        return Ranks(
            rank=rank,
            world_size=world_size,
            gather=lambda obj: exchange(obj) if rank == 0 else exchange(obj) and None,
            broadcast=lambda obj: exchange(obj)[0],
        )

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(fn, ranks_of(rank)) for rank in range(world_size)]
        return [future.exception() or future.result() for future in futures]


def save(folder: Path, step: int, owned: list[list[OwnedPiece]], **options: Any) -> None:
    """Write one step from all ranks; raises the first rank's error."""
    answers = together(
        len(owned),
        lambda ranks: write(folder, step, owned[ranks.rank], META, ranks=ranks, **options),
    )
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def save_alone(folder: Path, step: int, seed: int = 0, **options: Any) -> None:
    """Write one step from this process alone."""
    write(folder, step, one_rank(full_state(seed))[0], META, **options)


def equals(info: CheckpointInfo, state: dict[tuple[str, str], Tensor]) -> bool:
    """Whether the checkpoint's tensors are these, bit by bit."""
    with Reader(info) as reader:
        return all(torch.equal(reader.read(name, kind), tensor) for (name, kind), tensor in state.items())
