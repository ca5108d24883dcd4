"""A checkpoint written in one layout is read in any other, bit by bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.reader import Reader, read_weights
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import newest, write
from runtime.parallel.collective_actions import ALONE
from tests.support.states import (
    KINDS,
    LAYOUTS,
    META,
    SHAPES,
    equals,
    fragment,
    fragments,
    full_piece,
    full_state,
    one_rank,
    save,
    slice_piece,
    sliced,
    together,
)

STATE = full_state()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_reads_back_completely(tmp_path: Path, layout: str) -> None:
    save(tmp_path, 100, LAYOUTS[layout](STATE))
    info = newest(tmp_path)
    assert info.step == 100
    assert info.meta == META
    assert equals(info, STATE)


@pytest.mark.parametrize("reader_layout", LAYOUTS)
@pytest.mark.parametrize("writer_layout", LAYOUTS)
def test_any_layout_reads_its_pieces_from_any_other(
    tmp_path: Path, writer_layout: str, reader_layout: str
) -> None:
    save(tmp_path, 100, LAYOUTS[writer_layout](STATE))
    with Reader(newest(tmp_path)) as reader:
        for piece in (piece for owned in LAYOUTS[reader_layout](STATE) for piece in owned):
            part = reader.read(
                piece.name, piece.kind, offsets=piece.offsets, shape=piece.shape, flat=piece.flat
            )
            assert part.dtype == KINDS[piece.kind]
            assert torch.equal(part, piece.tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.arange(3, dtype=torch.int64),
        torch.tensor([[True, False]]),
        torch.randn(5, 3).to(torch.float8_e4m3fn),
        torch.randn(7).to(torch.float16),
        torch.randn(4, 6).t(),
    ],
    ids=["scalar", "int64", "bool", "float8", "float16", "transposed"],
)
def test_dtype_and_shape_are_kept(tmp_path: Path, tensor: torch.Tensor) -> None:
    write(tmp_path, 1, [full_piece("x", "weight", tensor)], META)
    with Reader(newest(tmp_path)) as reader:
        read = reader.read("x", "weight")
    assert read.dtype == tensor.dtype
    assert read.shape == tensor.shape
    assert torch.equal(read.to(torch.float64), tensor.to(torch.float64))


def test_a_scalar_fragment_reads_back(tmp_path: Path) -> None:
    piece = fragment(full_piece("x", "weight", torch.tensor(4.0)), 0, 1)
    write(tmp_path, 1, [piece], META)
    with Reader(newest(tmp_path)) as reader:
        assert reader.read("x", "weight").item() == 4.0
        assert reader.read("x", "weight", flat=(0, 0)).numel() == 0


def test_files_are_plain_safetensors(tmp_path: Path) -> None:
    save(tmp_path, 100, sliced(STATE))
    folder = tmp_path / "step-00000100"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "rank-0000.safetensors",
        "rank-0001.safetensors",
    ]
    tensors = load_file(folder / "rank-0001.safetensors")
    expected = STATE["model.layers.0.mlp.experts.up", "weight"][2:]
    assert torch.equal(tensors["weight/model.layers.0.mlp.experts.up"], expected)


def test_each_tensor_is_aligned_to_its_element_size(tmp_path: Path) -> None:
    odd = [
        full_piece(name, "weight", torch.ones(3, dtype=dtype))
        for name, dtype in {"a": torch.uint8, "b": torch.bfloat16, "c": torch.float64}.items()
    ]
    write(tmp_path, 1, odd, META)
    content = (tmp_path / "step-00000001" / "rank-0000.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    starts = {key: entry["data_offsets"][0] for key, entry in json.loads(content[8 : 8 + length]).items()}
    assert starts == {"weight/c": 0, "weight/b": 24, "weight/a": 30}


def test_two_fragments_of_a_tensor_on_one_rank_have_different_keys(tmp_path: Path) -> None:
    piece = full_piece("x", "master", torch.arange(10.0))
    write(tmp_path, 1, [fragment(piece, 0, 4), fragment(piece, 4, 10)], META)
    with Reader(newest(tmp_path)) as reader:
        assert torch.equal(reader.read("x", "master"), torch.arange(10.0))


def test_a_rank_that_owns_nothing_writes_no_file(tmp_path: Path) -> None:
    save(tmp_path, 1, [*one_rank(STATE), []])
    assert [path.name for path in (tmp_path / "step-00000001").glob("*.safetensors")] == [
        "rank-0000.safetensors"
    ]
    assert equals(newest(tmp_path), STATE)


def test_read_weights_gives_only_the_weights(tmp_path: Path) -> None:
    save(tmp_path, 1, fragments(STATE))
    weights = dict(read_weights(newest(tmp_path)))
    assert set(weights) == set(SHAPES)
    assert all(torch.equal(tensor, STATE[name, "weight"]) for name, tensor in weights.items())


def test_other_files_are_copied_into_it(tmp_path: Path) -> None:
    tokenizer = tmp_path / "made.json"
    tokenizer.write_text('{"a": 1}')
    save(tmp_path / "c", 1, one_rank(STATE), files={"tokenizer.json": tokenizer})
    info = newest(tmp_path / "c")
    assert (info.folder / "tokenizer.json").read_text() == '{"a": 1}'
    assert "tokenizer.json" in info.manifest.files


def test_every_rank_finds_the_same_newest(tmp_path: Path) -> None:
    save(tmp_path, 50, sliced(STATE))
    (tmp_path / "step-00000050" / "rank-0001.safetensors").unlink()
    (tmp_path / "latest").write_text("step-00000050\n")
    save(tmp_path, 40, sliced(STATE))
    (tmp_path / "latest").write_text("step-00000050\n")
    found = together(3, lambda ranks: newest(tmp_path, ranks))
    assert [info.step for info in found] == [40, 40, 40]


def test_newest_takes_a_run_its_checkpoints_or_one_of_them(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", 50, one_rank(STATE))
    save(tmp_path / "checkpoints", 60, one_rank(STATE))
    assert newest(tmp_path).step == 60
    assert newest(tmp_path / "checkpoints").step == 60
    assert newest(tmp_path / "checkpoints" / "step-00000050").step == 50


def test_newest_of_an_empty_or_missing_folder_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "never_made") is None


# What must not be written.


def refusal(folder: Path, owned: list[list[OwnedPiece]]) -> str:
    answers = together(len(owned), lambda ranks: write(folder, 1, owned[ranks.rank], META, ranks=ranks))
    assert all(isinstance(answer, CheckpointError) for answer in answers), answers
    assert len({str(answer) for answer in answers}) == 1
    assert list(folder.iterdir()) == []
    return str(answers[0])


def test_a_gap_is_refused_with_its_range(tmp_path: Path) -> None:
    owned = sliced(STATE)
    owned[1] = [piece for piece in owned[1] if "experts" not in piece.name or piece.kind != "exp_avg"]
    text = refusal(tmp_path, owned)
    assert "SW813 model.layers.0.mlp.experts.up (exp_avg)" in text
    assert "[2:4, 0:5, 0:3]" in text


def test_an_overlap_is_refused(tmp_path: Path) -> None:
    owned = sliced(STATE)
    owned[1].append(owned[0][0])
    assert "SW813 model.embed_tokens.weight (weight): its pieces overlap" in refusal(tmp_path, owned)


def test_another_shape_on_another_rank_is_refused(tmp_path: Path) -> None:
    owned = [
        [slice_piece("x", "weight", torch.ones(4, 2), 0, 0, 2)],
        [slice_piece("x", "weight", torch.ones(6, 2), 0, 1, 2)],
    ]
    text = refusal(tmp_path, owned)
    assert "SW813 x (weight) is F32 [4, 2] in rank-0000.safetensors and F32 [6, 2] in rank-0001" in text


def test_meta_that_is_not_json_is_refused(tmp_path: Path) -> None:
    meta = META.__class__(**{**META.__dict__, "counters": {"loss": float("nan")}})
    with pytest.raises(CheckpointError, match="SW814"):
        write(tmp_path, 1, one_rank(STATE)[0], meta)


# What must not be read.


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            {"name": "model.nowhere", "kind": "weight"},
            "SW808 .*no weight of model.nowhere.*no tensor of that name",
        ),
        ({"name": "model.norm.weight", "kind": "rng"}, "SW808 .*only its exp_avg, master, weight"),
        (
            {"name": "model.norm.weight", "kind": "weight", "offsets": (4,), "shape": (4,)},
            r"SW808 .*model.norm.weight \(weight\) \[4:8\].* \[6\]",
        ),
        (
            {"name": "model.norm.weight", "kind": "weight", "offsets": (0, 0), "shape": (2, 3)},
            r"SW808 .* \[6\]",
        ),
    ],
)
def test_reading_a_missing_tensor_is_an_error(tmp_path: Path, ask: dict[str, Any], message: str) -> None:
    save(tmp_path, 1, one_rank(STATE))
    with Reader(newest(tmp_path)) as reader, pytest.raises(CheckpointError, match=message):
        reader.read(**ask)


def test_reading_needs_little_more_memory_than_the_tensor(tmp_path: Path) -> None:
    import tracemalloc

    tensor = torch.randn(64, 1 << 14)  # 4 MiB
    write(tmp_path, 1, [full_piece("x", "weight", tensor)], META)
    info = newest(tmp_path)
    before = resident_bytes()
    tracemalloc.start()
    with Reader(info) as reader:
        for row in range(64):
            reader.read("x", "weight", offsets=(row, 0), shape=(1, 1 << 14))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The file's own pages count too while it is mapped: its size is the most that may come on top.
    assert resident_bytes() - before < 6 << 20
    assert most < 1 << 20


def resident_bytes() -> int:
    from runtime.telemetry.records import memory_bytes

    return memory_bytes("cpu")


def test_a_lone_process_needs_no_collective() -> None:
    assert ALONE.on_all(lambda: 5, int) == [5]


def test_safe_open_reads_without_our_code(tmp_path: Path) -> None:
    save(tmp_path, 1, one_rank(STATE))
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())
    tensor = manifest["tensors"]["model.norm.weight"]["master"]
    (piece,) = tensor["pieces"]
    with safe_open(tmp_path / "step-00000001" / piece["file"], framework="pt") as file:
        assert torch.equal(file.get_tensor(piece["key"]), STATE["model.norm.weight", "master"])
