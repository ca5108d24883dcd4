"""A damaged checkpoint is recognized, reported, and skipped for the one before it."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.reader import Reader
from runtime.checkpoint.store import find_damage, newest, open_checkpoint
from tests.support.states import equals, full_state, save, sliced

OLD, NEW = full_state(seed=1), full_state(seed=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, 50, sliced(OLD))
    save(tmp_path, 100, sliced(NEW))
    return tmp_path


def flip_bit(path: Path, at: float) -> None:
    """Flip one bit at this part of the file, 0 to 1."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap_files(step: Path) -> None:
    first, second, spare = (step / name for name in ("rank-0000.safetensors", "rank-0001.safetensors", "x"))
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


def same_size_other_bytes(step: Path) -> None:
    path = step / "rank-0001.safetensors"
    path.write_bytes(bytes(path.stat().st_size))


def rewrite_manifest(step: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and correct its hash, as a faulty program would."""
    path = step / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**fields, "sha256": hashlib.sha256(canonical).hexdigest()}))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def drop_a_piece(fields: dict[str, Any]) -> None:
    fields["tensors"]["model.layers.0.mlp.experts.up"]["exp_avg"]["pieces"].pop()


def offsets_of_other_dims(fields: dict[str, Any]) -> None:
    fields["tensors"]["model.norm.weight"]["weight"]["pieces"][0]["offsets"] = [0, 0]


def another_dtype(fields: dict[str, Any]) -> None:
    fields["tensors"]["model.norm.weight"]["weight"]["dtype"] = "F31"


def lead_outside(fields: dict[str, Any]) -> None:
    fields["files"]["../../secret"] = fields["files"].pop("rank-0001.safetensors")
    for kinds in fields["tensors"].values():
        for tensor in kinds.values():
            for piece in tensor["pieces"]:
                piece["file"] = piece["file"].replace("rank-0001.safetensors", "../../secret")


DAMAGES = {
    "data truncated": (
        lambda step: truncate(step / "rank-0001.safetensors"),
        "SW804 rank-0001.safetensors has 678 bytes",
    ),
    "data bit flipped": (
        lambda step: flip_bit(step / "rank-0000.safetensors", 0.9),
        "SW804 rank-0000.* altered",
    ),
    "data header flipped": (
        lambda step: flip_bit(step / "rank-0000.safetensors", 0.0),
        "SW804 rank-0000.* altered",
    ),
    "data zeroed": (same_size_other_bytes, "SW804 rank-0001.safetensors was altered"),
    "data missing": (lambda step: (step / "rank-0001.safetensors").unlink(), "SW804 rank-0001.* is missing"),
    "data swapped": (swap_files, "SW804 rank-0000.safetensors (was altered|has)"),
    "manifest truncated": (lambda step: truncate(step / "manifest.json"), "SW802 .*manifest.json"),
    "manifest empty": (lambda step: (step / "manifest.json").write_text(""), "SW802 .*manifest.json"),
    "manifest bit flipped": (lambda step: flip_bit(step / "manifest.json", 0.5), "SW802 .*manifest.json"),
    "manifest missing": (lambda step: (step / "manifest.json").unlink(), "SW801 .*manifest.json"),
    "manifest of a later version": (
        lambda step: rewrite_manifest(step, lambda fields: fields.update(schema_version=3)),
        "SW803 .*schema_version 3;.* 1 to 2",
    ),
    "manifest with an unknown key": (
        lambda step: rewrite_manifest(step, lambda fields: fields.update(more=1)),
        "SW802 .*: more",
    ),
    "manifest with NaN": (
        lambda step: edit(step / "manifest.json", '"step": 100', '"step": NaN'),
        "SW802 .*manifest.json",
    ),
    "manifest with infinity and its hash": (
        lambda step: rewrite_manifest(step, lambda fields: fields["meta"]["counters"].update(x=math.inf)),
        "SW802 .*manifest.json",
    ),
    "manifest that is a folder": (lambda step: replace_by_folder(step / "manifest.json"), "SW801 .*folder"),
    "manifest without end": (
        lambda step: replace_by_link(step / "manifest.json", "/dev/zero"),
        "SW801 .*neither a file nor a folder",
    ),
    "manifest that links to itself": (
        lambda step: replace_by_link(step / "manifest.json", "manifest.json"),
        "SW801 .*a link to itself",
    ),
    "piece of other dims": (
        lambda step: rewrite_manifest(step, offsets_of_other_dims),
        r"SW802 .*model.norm.weight \(weight\): a piece in rank-0000.safetensors has offsets \[0, 0\]",
    ),
    "hole": (
        lambda step: rewrite_manifest(step, drop_a_piece),
        r"SW802 .*experts.up \(exp_avg\).* \[2:4, 0:5, 0:3\]",
    ),
    "unknown dtype": (
        lambda step: rewrite_manifest(step, another_dtype),
        "SW802 .*: tensors.model.norm.weight.weight.dtype",
    ),
    "file outside": (lambda step: rewrite_manifest(step, lead_outside), r"SW802 .*'\.\./\.\./secret'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    break_it, message = DAMAGES[damage]
    break_it(folder / "step-00000100")
    with caplog.at_level(logging.WARNING):
        info = newest(folder)
    assert info.step == 50
    assert equals(info, OLD)
    (record,) = caplog.records
    assert re.match("SW806 .*/step-00000100: SW80[1-4] ", record.getMessage())
    with pytest.raises(CheckpointError, match=message):
        newest(folder / "step-00000100")


@pytest.mark.parametrize("at", [n / 40 for n in range(41)])
def test_a_flipped_bit_in_the_manifest_is_damage(folder: Path, at: float) -> None:
    flip_bit(folder / "step-00000100" / "manifest.json", at)
    info = newest(folder)
    # The last byte is the line's end, white space in JSON: the content is unchanged.
    assert info.step == 50 or (at == 1 and equals(info, NEW))


@pytest.mark.parametrize(
    "content", [b"", b"step-000001", b"stap-00000100\n", b"step-00000140\n", b"\xff\xfe", b"../x\n", None]
)
def test_without_a_valid_latest_the_highest_step_is_used_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    latest = folder / "latest"
    latest.unlink() if content is None else latest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        info = newest(folder)
    assert info.step == 100
    assert "SW807" in caplog.text


def test_latest_is_followed_without_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "latest").write_text("step-00000050\n")
    with caplog.at_level(logging.WARNING):
        assert newest(folder).step == 50
    assert not caplog.records


def test_no_intact_checkpoint_is_an_error(folder: Path) -> None:
    for step in ("step-00000050", "step-00000100"):
        truncate(folder / step / "rank-0000.safetensors")
    with pytest.raises(CheckpointError, match=r"SW805 .*SW804 rank-0000.*; SW804 rank-0000"):
        newest(folder)


def test_a_file_deleted_after_verification_is_an_error(folder: Path) -> None:
    info = newest(folder)
    (info.folder / "rank-0001.safetensors").unlink()
    with Reader(info) as reader, pytest.raises(CheckpointError, match=r"SW809 .*rank-0001\.safetensors"):
        reader.read("model.layers.0.mlp.experts.up", "weight")


def test_the_next_save_sets_checkpoints_after_it_aside(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncate(folder / "step-00000100" / "rank-0000.safetensors")
    assert newest(folder).step == 50
    with caplog.at_level(logging.WARNING):
        save(folder, 75, sliced(NEW), keep_last=2)
    assert "SW816" in caplog.text
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000050", "step-00000075"]
    (aside,) = folder.glob("abandoned-step-00000100-*")
    assert find_damage(open_checkpoint(aside)) != ()


def test_a_damaged_step_is_written_again(folder: Path) -> None:
    truncate(folder / "step-00000100" / "rank-0000.safetensors")
    save(folder, 100, sliced(OLD))
    info = newest(folder)
    assert info.step == 100
    assert equals(info, OLD)
    assert not list(folder.glob(".*"))
