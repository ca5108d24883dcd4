"""Checkpoints with right hashes and wrong content: `verify` tells each in one line, in near-linear time."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from runtime.checkpoint.__main__ import app
from runtime.checkpoint.store import open_checkpoint
from runtime.checkpoint.tensor_slices import TensorSlice, full_slice, split_flat_range
from runtime.checkpoint.tiling import find_hole
from tests.runtime.checkpoint.test_fuzz import with_hash
from tests.support.fuzz import cases, quick_and_slow, within
from tests.support.states import equals, fragments, full_state, save, sliced

UP, NORM = "model.layers.0.mlp.experts.up", "model.norm.weight"
Fields = dict[str, Any]


@pytest.fixture
def step(tmp_path: Path) -> Path:
    save(tmp_path, 100, sliced(full_state()))
    return tmp_path / "step-00000100"


def verify(folder: Path) -> list[str]:
    """The lines that `verify` prints of a damaged checkpoint; none of an intact one."""
    result = CliRunner().invoke(app, ["verify", str(folder)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    first, *lines = result.stdout.splitlines()
    assert first == f"{folder}: {'damaged' if result.exit_code else 'intact'}"
    assert bool(lines) == bool(result.exit_code)
    return lines


def rewrite(step: Path, change: Callable[[Fields], object]) -> None:
    """Changes the manifest, with the hash that belongs to it."""
    path = step / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_bytes(with_hash(fields))


def rewrite_header(step: Path, change: Callable[[Fields], object]) -> None:
    """Changes the header of the first file, with the size and the hash that belong to it in the manifest."""
    path = step / "rank-0000.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    changed = change(header)
    text = json.dumps(header).encode() if changed is None else changed
    assert isinstance(text, bytes)
    content = len(text).to_bytes(8, "little") + text + content[end:]
    path.write_bytes(content)
    record = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(step, lambda fields: fields["files"].update({path.name: record}))


def weight(fields: Fields, name: str = NORM) -> Fields:
    return fields["tensors"][name]["weight"]


def piece(fields: Fields, name: str = NORM) -> Fields:
    return weight(fields, name)["pieces"][0]


MANIFESTS: dict[str, tuple[Callable[[Fields], object], str]] = {
    "a negative step": (lambda f: f.update(step=-100), "step: Input should be greater than or equal to 0"),
    "another step": (lambda f: f.update(step=200), "is of step 200, not of its folder's"),
    "a step that is text": (lambda f: f.update(step="100"), "step: Input should be a valid integer"),
    "a step that is true": (lambda f: f.update(step=True), "step: Input should be a valid integer"),
    "a step beyond all counts": (lambda f: f.update(step=10**30), "step: "),
    "a negative attempt": (lambda f: f["meta"].update(attempt=-1), "meta.attempt: "),
    "no step": (lambda f: f.pop("step"), "step: Field required"),
    "no files": (lambda f: f.pop("files"), "files: Field required"),
    "no meta": (lambda f: f.pop("meta"), "meta: Field required"),
    "no hash": (lambda f: f["files"]["rank-0000.safetensors"].pop("sha256"), "sha256: Field required"),
    "a hash that is none": (
        lambda f: f["files"]["rank-0000.safetensors"].update(sha256="0" * 63),
        "sha256: String should match",
    ),
    "a negative size": (
        lambda f: f["files"]["rank-0000.safetensors"].update(num_bytes=-1),
        "num_bytes: Input should be greater than",
    ),
    "no shape": (lambda f: weight(f).pop("shape"), f"{NORM}.weight.shape: Field required"),
    "a negative shape": (lambda f: weight(f).update(shape=[-6]), f"{NORM}.weight.shape.0: "),
    "an empty shape": (lambda f: weight(f).update(shape=[0]), f"{NORM}.weight.shape.0: "),
    "a shape that is no number": (lambda f: weight(f).update(shape=[6.0]), f"{NORM}.weight.shape.0: "),
    "a huge count": (lambda f: weight(f).update(shape=[10**400]), f"{NORM}.weight.shape.0: "),
    "a huge product": (
        lambda f: weight(f).update(shape=[2**40] * 8),
        f"{NORM} (weight): the shape [1099511627776,",
    ),
    "a thousand dims": (lambda f: weight(f).update(shape=[1] * 1000), f"{NORM}.weight.shape: Tuple should"),
    "a million elements more": (
        lambda f: weight(f).update(shape=[10**6]),
        f"{NORM} (weight): no piece covers [6:1000000]",
    ),
    "a negative offset": (lambda f: piece(f).update(offsets=[-1]), "pieces.0.offsets.0: "),
    "an offset outside": (lambda f: piece(f).update(offsets=[1]), "[1:7] is outside the shape [6]"),
    "a piece twice": (
        lambda f: weight(f)["pieces"].append(piece(f)),
        f"{NORM} (weight): its pieces overlap, or are cut as no run cuts them: rank-0000.safetensors [0:6]",
    ),
    "two pieces that overlap": (
        lambda f: weight(f, UP)["pieces"][1].update(offsets=[1, 0, 0]),
        f"{UP} (weight): no piece covers [3:4, 0:5, 0:3] of the shape",
    ),
    "a range that runs backwards": (lambda f: piece(f).update(flat=[6, 0]), "is outside its own slice"),
    "a range that is too long": (lambda f: piece(f).update(flat=[0, 7]), "is outside its own slice"),
    "no pieces": (lambda f: weight(f).update(pieces=[]), f"{NORM} (weight): no piece covers [0:6]"),
    "another shape in the file": (
        lambda f: (weight(f).update(shape=[2, 3]), piece(f).update(shape=[2, 3], offsets=[0, 0])),
        f"weight/{NORM} is BF16 [6] in it, and BF16 [2, 3] in the manifest",
    ),
    "another dtype in the file": (
        lambda f: weight(f).update(dtype="F16"),
        f"weight/{NORM} is BF16 [6] in it, and F16 [6] in the manifest",
    ),
    "a key that is not in the file": (
        lambda f: piece(f).update(key="weight/none"),
        "it has no tensor weight/none, which the manifest says is in it",
    ),
    "a name with a line's end": (
        lambda f: f["tensors"].update({"a\n\x1b[2Jb": {"weight": {**weight(f), "pieces": []}}}),
        "'a\\n\\x1b[2Jb' (weight): no piece covers",
    ),
    "counters without the horizon": (
        lambda f: f["meta"]["counters"].pop("horizon"),
        "meta.counters.horizon is None, not a count",
    ),
    "a version that is a list": (lambda f: f.update(schema_version=[]), "has schema_version []"),
}
HEADERS: dict[str, tuple[Callable[[Fields], object], str]] = {
    "beyond the end": (
        lambda h: h[f"weight/{NORM}"].update(data_offsets=[10**6, 10**6 + 12]),
        f"weight/{NORM} is at bytes 1,000,000 to 1,000,012 of ",
    ),
    "negative": (
        lambda h: h[f"weight/{NORM}"].update(data_offsets=[-12, 0]),
        f"weight/{NORM} has a shape or offsets that are no counts",
    ),
    "backwards": (
        lambda h: h[f"weight/{NORM}"].update(data_offsets=[12, 0]),
        f"weight/{NORM} is at bytes 12 to 0 of ",
    ),
    "inside another": (
        lambda h: h[f"weight/{NORM}"].update(data_offsets=[0, 12]),
        "begins at byte 0, inside ",
    ),
    "of another length": (
        lambda h: h[f"weight/{NORM}"].update(data_offsets=[0, 11]),
        f"weight/{NORM}, BF16 [6], has 11 bytes",
    ),
    "a huge shape": (
        lambda h: h[f"weight/{NORM}"].update(shape=[2**62] * 40),
        f"weight/{NORM}, BF16 [",
    ),
    "an unknown dtype": (lambda h: h[f"weight/{NORM}"].update(dtype="F99"), "its header is not that of"),
    "without offsets": (lambda h: h[f"weight/{NORM}"].pop("data_offsets") and None, "its header is not that"),
    "no mapping": (lambda h: b"[]", "its header is not that of a safetensors file (TypeError)"),
    "no JSON": (lambda h: b"{", "its header is not that of a safetensors file (JSONDecodeError)"),
    "without end": (
        lambda h: b"[" * 100_000,
        "its header is not that of a safetensors file (RecursionError)",
    ),
}


@pytest.mark.parametrize("forged", MANIFESTS)
def test_a_forged_manifest_is_told_in_one_line(step: Path, forged: str) -> None:
    change, words = MANIFESTS[forged]
    assert verify(step) == []
    rewrite(step, change)
    (line,) = verify(step)
    assert line.startswith("  SW80")
    assert words in line


@pytest.mark.parametrize("forged", HEADERS)
def test_a_forged_file_is_told_in_one_line(step: Path, forged: str) -> None:
    change, words = HEADERS[forged]
    rewrite_header(step, lambda header: None)
    assert verify(step) == []
    rewrite_header(step, change)
    (line,) = verify(step)
    assert line.startswith("  SW804 rank-0000.safetensors is not what the manifest says: ")
    assert words in line


def test_a_header_that_is_longer_than_its_file_is_told(step: Path) -> None:
    path = step / "rank-0000.safetensors"
    content = (2**60).to_bytes(8, "little") + path.read_bytes()[8:]
    path.write_bytes(content)
    record = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(step, lambda fields: fields["files"].update({path.name: record}))
    (line,) = verify(step)
    assert "its header is not that of a safetensors file" in line


def numbers(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all numbers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*where, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from numbers(inner, (*where, place))
    elif isinstance(value, int):
        yield where


@pytest.mark.parametrize("number", quick_and_slow(60, 3000))
def test_no_number_of_a_manifest_can_be_another(tmp_path: Path, number: int) -> None:
    """But those about the run, which nothing in the checkpoint shows to be wrong, and what means the same."""
    state = full_state()
    save(tmp_path / "kept", 100, fragments(state))
    kept = tmp_path / "kept" / "step-00000100"
    fields = json.loads((kept / "manifest.json").read_text())
    places = [place for place in numbers(fields) if place[0] != "meta"]
    step = tmp_path / "step-00000100"
    shutil.copytree(kept, step)

    @cases(number)
    @given(
        place=st.sampled_from(places),
        new=st.integers(-2, 40) | st.sampled_from([2**31, 2**63, 10**30, -(2**63)]),
    )
    def holds(place: tuple[Any, ...], new: int) -> None:
        forged = json.loads(json.dumps(fields))
        inside = forged
        for key in place[:-1]:
            inside = inside[key]
        if inside[place[-1]] == new or place == ("schema_version",):
            return
        inside[place[-1]] = new
        (step / "manifest.json").write_bytes(with_hash(forged))
        with within(2):
            is_told = bool(verify(step))
        # A range within the first rows of a slice is the same in a shorter one.
        assert is_told or (place[-2] == "shape" and equals(open_checkpoint(step), state))

    holds()


def brute_force(frame: tuple[int, ...], parts: list[TensorSlice]) -> bool:
    """Whether every element is in one part."""
    count = np.zeros(frame, dtype=int)
    for part in parts:
        count[tuple(slice(a, b) for a, b in zip(part.offsets, part.ends, strict=True))] += 1
    return bool((count == 1).all())


@st.composite
def guillotine(draw: st.DrawFn, frame: TensorSlice, depth: int = 0) -> list[TensorSlice]:
    """Slices that tile a frame, as planes through it cut it."""
    dims = [dim for dim, size in enumerate(frame.shape) if size > 1]
    if not dims or depth == 3 or draw(st.integers(0, 3)) == 0:
        return [frame]
    dim = draw(st.sampled_from(dims))
    size = draw(st.integers(1, frame.shape[dim] - 1))
    first = (*frame.shape[:dim], size, *frame.shape[dim + 1 :])
    rest = (*frame.shape[:dim], frame.shape[dim] - size, *frame.shape[dim + 1 :])
    after = (*frame.offsets[:dim], frame.offsets[dim] + size, *frame.offsets[dim + 1 :])
    halves = (TensorSlice(frame.offsets, first), TensorSlice(after, rest))
    return [part for half in halves for part in draw(guillotine(half, depth + 1))]


@cases(300)
@given(data=st.data())
def test_tilings_are_told_from_holes_and_overlaps(data: st.DataObject) -> None:
    """Against a count of every element; changed ones too."""
    frame = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple))
    parts = data.draw(guillotine(full_slice(frame)))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(parts) - 1))
        other = data.draw(st.sampled_from(parts))
        parts = data.draw(
            st.sampled_from([parts[:place] + parts[place + 1 :], [*parts, other], [*parts[:place], other]])
        )
    fault = find_hole(full_slice(frame), [(part, None) for part in parts])
    assert (fault is None) == brute_force(frame, parts)
    if fault is not None and fault[0] is not None:
        hole = np.zeros(frame, dtype=bool)
        hole[tuple(slice(a, b) for a, b in zip(fault[0].offsets, fault[0].ends, strict=True))] = True
        for part in parts:
            hole[tuple(slice(a, b) for a, b in zip(part.offsets, part.ends, strict=True))] &= False
        assert hole.sum() == prod(fault[0].shape), "what is called a hole is in no part"


@cases(300)
@given(data=st.data())
def test_what_ranks_write_is_a_tiling(data: st.DataObject) -> None:
    """A grid of slices (TP, EP), each in flat ranges (ZeRO) of its own."""
    cuts = [
        sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))})
        for size in data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    ]
    frame = tuple(ends[-1] for ends in cuts)
    grid: list[TensorSlice] = [TensorSlice((), ())]
    for ends in cuts:
        grid = [
            TensorSlice((*box.offsets, a), (*box.shape, b - a)) for box in grid for a, b in pairwise(ends)
        ]
    parts: list[TensorSlice] = []
    for box in grid:
        size = prod(box.shape)
        flat = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4))})
        for start, stop in pairwise(flat):
            parts += split_flat_range(box, (start, stop))
    assert brute_force(frame, parts)
    assert find_hole(full_slice(frame), [(part, None) for part in parts]) is None


@pytest.mark.parametrize("forged", ["rows", "spiral", "the same", "scattered", "comb"])
def test_many_pieces_take_seconds(step: Path, forged: str) -> None:
    """A comparison of all with all would take a quarter of an hour."""
    count = 30_000
    draw = random.Random(1)
    boxes: list[tuple[list[int], list[int]]] = []
    if forged == "rows":
        boxes = [([place, 0], [1, 4]) for place in range(count)]
    elif forged == "spiral":
        boxes = [
            ([(i + 1) // 2, i // 2], [1, count - i // 2] if i % 2 == 0 else [count - (i + 1) // 2, 1])
            for i in range(count)
        ]
    elif forged == "the same":
        boxes = [([0, 0], [count, 4])] * count
    elif forged == "scattered":
        boxes = [([draw.randrange(count), draw.randrange(4)], [1, 1]) for _ in range(count)]
    else:
        boxes = [([place, place % 2], [1, 3]) for place in range(count)]
    shape = [count, count if forged == "spiral" else 4]

    def change(fields: Fields) -> None:
        file = piece(fields)["file"]
        tensor = weight(fields)
        tensor["shape"] = shape
        tensor["pieces"] = [
            {"offsets": offsets, "shape": size, "flat": None, "file": file, "key": "k"}
            for offsets, size in boxes
        ]

    rewrite(step, change)
    with within(20):
        (line,) = verify(step)
    assert "no piece covers" in line or "overlap" in line or "has no tensor k" in line


def test_a_manifest_without_end_is_told(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.checkpoint.manifest.MAX_BYTES", 1 << 20)
    with (step / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    (line,) = verify(step)
    assert "SW801" in line
    assert "larger than 1,048,576 bytes" in line
