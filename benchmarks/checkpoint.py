"""Saving and loading of one rank's share against the disk: `python -m benchmarks.checkpoint`.

In turn, round by round: a save as a run makes it; `dd conv=fsync` of as many bytes; an async save, and how
long training waits for it; `dd` of a file that is not in memory, its SHA-256, and a load as a resume makes it
(every file verified, then read). Prints medians and paired ratios. Linux.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.step_report import Ratio, machine, paired_ratio, versions
from planner.files import sha256_of
from planner.units import format_bytes
from runtime.checkpoint.async_writer import AsyncWriter
from runtime.checkpoint.manifest import Meta
from runtime.checkpoint.reader import Reader
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import newest, write

_KINDS = ("weight", "exp_avg", "exp_avg_sq")
_TENSOR_ELEMENTS = 1 << 22  # 16 MiB in fp32


def main(argv: Sequence[str]) -> int:
    """0; what cannot be measured is an error."""
    options = _options(argv)
    torch.set_num_threads(1)
    folder = Path(options.folder).resolve() / f"bench-checkpoint-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        found = _measure(folder, _pieces(options.mib), options.rounds)
    finally:
        shutil.rmtree(folder)
    report = {"machine": machine(), "versions": versions(), "mib": options.mib, "seconds": found}
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{machine()}; {format_bytes(options.mib << 20)}, {options.rounds} rounds, in {options.folder}")
    for name, seconds in found.items():
        print(f"  {name:28} {statistics.median(seconds):8.3f} s")
    for text, ratio in _ratios(found).items():
        print(f"  {text:28} {ratio}")
    print(f"written to {options.out}")
    return 0


def _pieces(mib: int) -> list[OwnedPiece]:
    """fp32 weights and moments of so many MiB in all, in tensors of 16 MiB."""
    count = max(1, (mib << 20) // (4 * _TENSOR_ELEMENTS * len(_KINDS)))
    shape = (_TENSOR_ELEMENTS,)
    return [
        OwnedPiece(
            name=f"w{index}",
            kind=kind,
            global_shape=shape,
            offsets=(0,),
            shape=shape,
            tensor=torch.randn(shape),
        )
        for index in range(count)
        for kind in _KINDS
    ]


def _measure(folder: Path, pieces: Sequence[OwnedPiece], rounds: int) -> dict[str, list[float]]:
    save = partial(_save, folder / "checkpoints")
    writer, target = AsyncWriter(), [torch.empty_like(piece.tensor) for piece in pieces]
    num_mib = sum(piece.tensor.nbytes for piece in pieces) >> 20
    zeros = folder / "zeros"
    found: dict[str, list[float]] = {}

    def take(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        found.setdefault(name, []).append(time.perf_counter() - began)

    def dd() -> None:
        _dd(f"if=/dev/zero of={zeros} bs=8M count={num_mib // 8} conv=fsync")

    def free_pages() -> None:
        """Alike for both writers: a virtual machine gets pages that it has not had for a while much later."""
        dd()
        zeros.unlink()

    writer.begin(pieces, lambda _: None)  # its memory is made once in a run
    for step in range(1, 2 * rounds, 2):
        free_pages()
        take("save", lambda step=step: save(step, pieces))  # type: ignore[misc]
        free_pages()
        take("dd conv=fsync", dd)
        zeros.unlink()
        take("wait for an async save", lambda step=step: writer.begin(pieces, partial(save, step + 1)))  # type: ignore[misc]
        take("its write", writer.finish)
        (file,) = (folder / "checkpoints" / f"step-{step + 1:08d}").glob("*.safetensors")
        _forget(file)
        take("cold dd", lambda file=file: _dd(f"if={file} of=/dev/null bs=8M"))  # type: ignore[misc]
        take("sha256", lambda file=file: sha256_of(file))  # type: ignore[misc]
        _forget(file)
        take("load", lambda: _load(folder / "checkpoints", pieces, target))
    assert all(torch.equal(piece.tensor, read) for piece, read in zip(pieces, target, strict=True))
    return found


def _save(folder: Path, step: int, pieces: Sequence[OwnedPiece]) -> None:
    meta = Meta(attempt=1, model_fingerprint="", recipe_fingerprint="", layout={}, counters={})
    write(folder, step, pieces, meta, keep_last=1)


def _load(folder: Path, pieces: Sequence[OwnedPiece], target: Sequence[torch.Tensor]) -> None:
    info = newest(folder)
    assert info is not None
    with Reader(info) as reader:
        for piece, tensor in zip(pieces, target, strict=True):
            tensor.copy_(reader.read(piece.name, piece.kind))


def _dd(arguments: str) -> None:
    subprocess.run(["dd", *arguments.split(" ")], check=True, stderr=subprocess.DEVNULL)


def _forget(path: Path) -> None:
    """Out of the page cache; it must be on disk already."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _ratios(found: dict[str, list[float]]) -> dict[str, Ratio]:
    behind = [a + b for a, b in zip(found["wait for an async save"], found["its write"], strict=True)]
    slower = [max(pair) for pair in zip(found["cold dd"], found["sha256"], strict=True)]
    floor = [max(pair) for pair in zip(found["dd conv=fsync"], found["sha256"], strict=True)]
    return {
        "save / dd": paired_ratio(found["save"], found["dd conv=fsync"]),
        "save / slower of dd, sha256": paired_ratio(found["save"], floor),
        "wait / all of an async save": paired_ratio(found["wait for an async save"], behind),
        "load / slower of dd, sha256": paired_ratio(found["load"], slower),
    }


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--mib", type=int, default=768, help="of fp32 weights and moments")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", default="runs", help="on the disk to be measured")
    parser.add_argument("--out", default="runs/bench_checkpoint.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
