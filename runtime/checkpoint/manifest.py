"""manifest.json of a checkpoint: where each tensor is stored, and the hashes that prove it is intact.

    {"schema_version": 2, "step": 100, "meta": {...}, "sha256": "hash of everything else in here",
     "files":   {"rank-0000.safetensors": {"num_bytes": 4096, "sha256": "..."}, ...},
     "tensors": {"model.norm.weight": {"weight": {"shape": [64], "dtype": "F32", "pieces": [
         {"offsets": [0], "shape": [64], "flat": null, "file": "rank-0000.safetensors", "key": "..."}]}}}}

A piece is a slice of the global tensor, stored as a tensor of that shape, or (`flat`) a range of the
row-major slice, stored as a vector. The pieces of a tensor are disjoint and cover it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from planner.files import read_limited
from runtime.checkpoint.tensor_slices import TensorSlice, full_slice, is_within, split_flat_range, subtract
from runtime.checkpoint.tiling import find_hole
from runtime.files.path_kind import wrong_kind

MANIFEST_VERSION = 2
MANIFEST_NAME = "manifest.json"
# A manifest may come from anywhere: a file it names must not lead out of its folder, or to a hidden one.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
EXACT = ConfigDict(extra="forbid")
Dtype = Literal[
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"
]  # as safetensors spells them


# A manifest of 64 ranks and 30,720 pieces has 6 MB.
MAX_BYTES = 1 << 30
MAX_NUM_ELEMENTS = 2**63 - 1
# torch's own limit on most operations.
_MAX_DIMS = 64
_LONGEST_SHOWN = 120
Count = Annotated[int, Strict(), Field(ge=0, le=MAX_NUM_ELEMENTS)]
Shape = Annotated[tuple[Annotated[Count, Field(ge=1)], ...], Field(max_length=_MAX_DIMS)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CheckpointError(Exception):
    """A checkpoint could not be written or read; `text` says which one, and what was found."""

    def __init__(self, code: str, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(code, text)  # both, so that it can be pickled

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """Facts about the run that wrote a checkpoint, as plain JSON values.

    attempt: the claim (attempts/NNNN.json) that wrote it. layout: the degrees it was written in, for display
    and comparison; reading does not need it. counters: where training resumes (tokens, optimizer steps, the
    schedule's horizon). extra: anything else that must be restored unchanged.
    """

    attempt: Count
    model_fingerprint: str
    recipe_fingerprint: str
    layout: dict[str, Any]
    counters: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = EXACT


@dataclass(frozen=True, kw_only=True)
class StoredPiece:
    """The location of one piece of a tensor: `key` in `file`."""

    offsets: Annotated[tuple[Count, ...], Field(max_length=_MAX_DIMS)]
    shape: Shape
    flat: tuple[Count, Count] | None
    file: str
    key: str

    __pydantic_config__ = EXACT

    @property
    def tensor_slice(self) -> TensorSlice:
        return TensorSlice(self.offsets, self.shape)

    @property
    def num_elements(self) -> int:
        return prod(self.shape) if self.flat is None else self.flat[1] - self.flat[0]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A global tensor of one kind."""

    shape: Shape
    dtype: Dtype
    pieces: tuple[StoredPiece, ...]

    __pydantic_config__ = EXACT

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and hash of a file as it was written."""

    num_bytes: Count
    sha256: Hash

    __pydantic_config__ = EXACT


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """Checkpoint metadata without tensor data. tensors: by global name, then kind."""

    schema_version: int
    step: Count
    meta: Meta
    files: dict[str, FileRecord]
    tensors: dict[str, dict[str, StoredTensor]]

    __pydantic_config__ = EXACT


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """An opened checkpoint: its folder and its manifest. Plain data that can be sent to other ranks."""

    folder: Path
    manifest: CheckpointManifest

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def meta(self) -> Meta:
        return self.manifest.meta

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.manifest.files.values())


_MANIFEST: TypeAdapter[CheckpointManifest] = TypeAdapter(CheckpointManifest)


def to_bytes(manifest: CheckpointManifest) -> bytes:
    """The content of manifest.json, including its own hash.

    Raises:
        CheckpointError: if meta holds something that JSON cannot represent (a tensor, NaN).
    """
    try:
        fields = _MANIFEST.dump_python(manifest)  # not dump_json: it silently turns NaN into null
        fields["sha256"] = _own_hash(fields)
        return json.dumps(fields, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError("SW814", f"meta of step {manifest.step} is not plain JSON: {error}") from error


def read_manifest(folder: Path) -> CheckpointManifest:
    """Read a checkpoint's manifest and check its form, hash and coverage; other files are not read.

    Raises:
        CheckpointError: if it is missing, damaged, or of another schema version.
    """
    path = folder / MANIFEST_NAME
    try:
        if (found := wrong_kind(path, is_folder=False)) is not None:
            raise CheckpointError("SW801", f"{path} cannot be read: it is {found}")
        fields = json.loads(read_limited(path, MAX_BYTES))
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        stated = fields.pop("sha256")
        version = fields["schema_version"]
        actual = _own_hash(fields)
    except OSError as error:
        raise CheckpointError("SW801", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("SW802", f"{path} is damaged: not a manifest ({_error_line(error)})") from error
    if actual != stated:
        raise CheckpointError(
            "SW802", f"{path} is damaged: its SHA-256 is {actual}, recorded is {shown(stated)}"
        )
    if version == 1:
        _upgrade(fields)
    elif version != MANIFEST_VERSION:
        raise CheckpointError(
            "SW803",
            f"{path} has schema_version {shown(version)}; this version of the program reads 1 to "
            f"{MANIFEST_VERSION}",
        )
    try:
        manifest = _MANIFEST.validate_python(fields)
    except ValidationError as error:
        raise CheckpointError("SW802", f"{path} is not a manifest: {_validation_message(error)}") from error
    if faults := manifest_faults(manifest):
        raise CheckpointError("SW802", f"{path} is inconsistent: {faults[0]}")
    return manifest


def _upgrade(fields: dict[str, Any]) -> None:
    """Version 1 called the fingerprint of the training recipe `course_fingerprint`."""
    meta = fields.get("meta")
    if isinstance(meta, dict) and "course_fingerprint" in meta:
        meta["recipe_fingerprint"] = meta.pop("course_fingerprint")
    fields["schema_version"] = MANIFEST_VERSION


def manifest_faults(manifest: CheckpointManifest) -> tuple[str, ...]:
    """Every inconsistency of the tensors: holes, overlaps, slices out of bounds, unknown files."""
    faults = [
        f"{shown(repr(name))} is not a file name" for name in manifest.files if not FILE_NAME.fullmatch(name)
    ]
    # A model's layers, and the kinds of a tensor, are cut alike: each way to cut is checked once. That takes
    # 0.1 s instead of 1.3 for 64 ranks and 30,720 pieces (2 cores).
    sound: set[object] = set()
    for name, kinds in manifest.tensors.items():
        for kind, tensor in kinds.items():
            what = f"{shown(name)} ({shown(kind)})"
            unknown = {piece.file for piece in tensor.pieces} - manifest.files.keys()
            if unknown:
                faults.append(f"{what}: a piece is in {shown(min(unknown))}, which is not in files")
            cut = (tensor.shape, tuple((p.offsets, p.shape, p.flat) for p in tensor.pieces))
            if cut in sound:
                continue
            if fault := _fault_of_cut(tensor):
                faults.append(f"{what}: {fault}")
            else:
                sound.add(cut)
    return tuple(faults)


def _fault_of_cut(tensor: StoredTensor) -> str | None:
    shape = list(tensor.shape)
    if tensor.num_elements > MAX_NUM_ELEMENTS:
        return f"the shape {shape} has more elements than any file"
    everything = full_slice(tensor.shape)
    parts: list[tuple[TensorSlice, StoredPiece]] = []
    for piece in tensor.pieces:
        if not len(piece.offsets) == len(piece.shape) == len(tensor.shape):
            found = f"offsets {list(piece.offsets)} and shape {list(piece.shape)}"
            return f"a piece in {shown(piece.file)} has {found}, and the tensor has shape {shape}"
        if not is_within(piece.tensor_slice, everything):
            return f"{_located(piece)} is outside the shape {shape}"
        start, stop = piece.flat or (0, prod(piece.shape))
        if not start <= stop <= prod(piece.shape):
            return f"{_located(piece)} is outside its own slice"
        parts += ((part, piece) for part in split_flat_range(piece.tensor_slice, piece.flat))
    fault = find_hole(everything, parts)
    if fault is None:
        return None
    hole, overlapping = fault
    if hole is not None:
        return f"no piece covers {hole} of the shape {shape}"
    pieces = dict.fromkeys(_located(piece) for piece in overlapping[:8])
    return f"its pieces overlap, or are cut as no run cuts them: {', '.join(list(pieces)[:4])}"


def uncovered(slices: Iterable[TensorSlice], pieces: Iterable[StoredPiece]) -> list[TensorSlice]:
    """The parts of `slices` that none of `pieces` holds."""
    left = list(slices)
    # In the order of the tensor, the rest stays one slice most of the time.
    for piece in sorted(pieces, key=lambda piece: (piece.offsets, piece.flat or (0, 0))):
        for part in split_flat_range(piece.tensor_slice, piece.flat):
            left = [rest for tensor_slice in left for rest in subtract(tensor_slice, part)]
        if not left:
            break
    return left


def _located(piece: StoredPiece) -> str:
    within = "" if piece.flat is None else f" elements {piece.flat[0]}:{piece.flat[1]}"
    return f"{shown(piece.file)} {piece.tensor_slice}{within}"


def _own_hash(fields: Mapping[str, Any]) -> str:
    # Of the content, not of the bytes, so that the file can hold its own hash and stay one JSON object.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _validation_message(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(shown, fault['loc']))}: {fault['msg']}"


def shown(value: object) -> str:
    """What a manifest has, for a message of one line: it may come from anywhere."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _error_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
