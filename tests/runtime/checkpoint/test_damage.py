"""A damaged checkpoint is told from a whole one, said aloud, and the one before it is used."""

import hashlib
import json
import logging
from pathlib import Path

import pytest

from runtime.checkpoint.store import CheckpointError, Reader, newest, open_checkpoint, verify
from tests.support.states import equals, full_state, save, sliced

OLD, NEW = full_state(seed=1), full_state(seed=2)


@pytest.fixture
def folder(tmp_path) -> Path:
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


def rewrite_manifest(step: Path, change) -> None:
    """Change what the manifest says and make its hash right again, as a program with a fault would."""
    path = step / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**fields, "sha256": hashlib.sha256(canonical).hexdigest()}))


def drop_a_piece(fields) -> None:
    fields["tensors"]["model.layers.0.mlp.experts.up"]["exp_avg"]["pieces"].pop()


def another_dtype(fields) -> None:
    fields["tensors"]["model.norm.weight"]["weight"]["dtype"] = "F31"


def lead_outside(fields) -> None:
    fields["files"]["../../secret"] = fields["files"].pop("rank-0001.safetensors")
    for kinds in fields["tensors"].values():
        for tensor in kinds.values():
            for piece in tensor["pieces"]:
                piece["file"] = piece["file"].replace("rank-0001.safetensors", "../../secret")


DAMAGES = {
    "data truncated": (lambda step: truncate(step / "rank-0001.safetensors"), "rank-0001.safetensors has"),
    "data bit flipped": (lambda step: flip_bit(step / "rank-0000.safetensors", 0.9), "rank-0000.* altered"),
    "data header flipped": (lambda step: flip_bit(step / "rank-0000.safetensors", 0.0), "altered"),
    "data zeroed": (same_size_other_bytes, "rank-0001.safetensors was altered"),
    "data missing": (lambda step: (step / "rank-0001.safetensors").unlink(), "rank-0001.* is missing"),
    "data swapped": (swap_files, "rank-0000.safetensors (was altered|has)"),
    "manifest truncated": (lambda step: truncate(step / "manifest.json"), "manifest.json is damaged"),
    "manifest empty": (lambda step: (step / "manifest.json").write_text(""), "manifest.json is damaged"),
    "manifest bit flipped": (lambda step: flip_bit(step / "manifest.json", 0.5), "manifest.json is damaged"),
    "manifest missing": (lambda step: (step / "manifest.json").unlink(), "manifest.json cannot be read"),
    "manifest of a later version": (
        lambda step: rewrite_manifest(step, lambda fields: fields.update(schema_version=3)),
        "schema_version 3; this version of the program reads 1 to 2",
    ),
    "manifest with an unknown key": (
        lambda step: rewrite_manifest(step, lambda fields: fields.update(more=1)),
        "is not a manifest: more",
    ),
    "hole": (
        lambda step: rewrite_manifest(step, drop_a_piece),
        r"experts.up \(exp_avg\): no piece covers \[2:4, 0:5, 0:3\]",
    ),
    "unknown dtype": (
        lambda step: rewrite_manifest(step, another_dtype),
        "is not a manifest: tensors.model.norm.weight.weight.dtype",
    ),
    "file outside": (lambda step: rewrite_manifest(step, lead_outside), "'../../secret' is not a file name"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_the_one_before_is_used(folder, caplog, damage):
    break_it, message = DAMAGES[damage]
    break_it(folder / "step-00000100")
    with caplog.at_level(logging.WARNING):
        info = newest(folder)
    assert info.step == 50
    assert equals(info, OLD)
    (record,) = caplog.records
    assert "step-00000100 is damaged and passed over" in record.getMessage()
    with pytest.raises(CheckpointError, match=message):
        newest(folder / "step-00000100")


@pytest.mark.parametrize("at", [n / 40 for n in range(41)])
def test_no_bit_of_the_manifest_may_flip(folder, at):
    flip_bit(folder / "step-00000100" / "manifest.json", at)
    info = newest(folder)
    # The last byte is the line's end, white space of JSON: everything that was said still stands.
    assert info.step == 50 or (at == 1 and equals(info, NEW))


@pytest.mark.parametrize(
    "content", [b"", b"step-000001", b"stap-00000100\n", b"step-00000140\n", b"\xff\xfe", b"../x\n", None]
)
def test_without_a_good_latest_the_newest_is_found_aloud(folder, caplog, content):
    latest = folder / "latest"
    latest.unlink() if content is None else latest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        info = newest(folder)
    assert info.step == 100
    assert "does not name a checkpoint" in caplog.text


def test_latest_is_followed_quietly(folder, caplog):
    (folder / "latest").write_text("step-00000050\n")
    with caplog.at_level(logging.WARNING):
        assert newest(folder).step == 50
    assert not caplog.records


def test_when_none_is_whole_nothing_is_loaded(folder):
    for step in ("step-00000050", "step-00000100"):
        truncate(folder / step / "rank-0000.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: rank-0000.*; rank-0000"):
        newest(folder)


def test_a_file_that_goes_after_it_was_verified_is_an_error(folder):
    info = newest(folder)
    (info.folder / "rank-0001.safetensors").unlink()
    with Reader(info) as reader, pytest.raises(CheckpointError, match=r"rank-0001\.safetensors"):
        reader.read("model.layers.0.mlp.experts.up", "weight")


def test_the_next_save_sets_a_damaged_future_aside(folder, caplog):
    truncate(folder / "step-00000100" / "rank-0000.safetensors")
    assert newest(folder).step == 50
    with caplog.at_level(logging.WARNING):
        save(folder, 75, sliced(NEW), keep_last=2)
    assert "set aside" in caplog.text
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000050", "step-00000075"]
    (aside,) = folder.glob("abandoned-step-00000100-*")
    assert verify(open_checkpoint(aside)) != ()


def test_a_damaged_step_is_written_again(folder):
    truncate(folder / "step-00000100" / "rank-0000.safetensors")
    save(folder, 100, sliced(OLD))
    info = newest(folder)
    assert info.step == 100
    assert equals(info, OLD)
    assert not list(folder.glob(".*"))
