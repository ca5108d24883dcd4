"""The reader printed in docs/how-to/checkpoints.md reads what this program writes, with safetensors alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.states import LAYOUTS, full_piece, save, slice_piece

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "checkpoints.md"
STATE = {
    ("model.embed_tokens.weight", "weight"): torch.randn(16, 6),
    ("model.layers.0.mlp.experts.up", "exp_avg"): torch.randn(4, 5, 3),
    ("model.norm.weight", "weight"): torch.randn(6),
}


def documented() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_documented_reader_reads_every_layout(tmp_path: Path, layout: str) -> None:
    save(tmp_path, 150, LAYOUTS[layout](STATE))
    read = documented()["read"]
    for (name, kind), tensor in STATE.items():
        assert torch.equal(torch.from_numpy(read(tmp_path / "step-00000150", name, kind)), tensor)


def test_the_documented_reader_reads_columns_and_a_scalar(tmp_path: Path) -> None:
    columns, scalar = torch.randn(4, 6), torch.tensor(2.5)
    pieces = [slice_piece("columns", "weight", columns, 1, rank, 2) for rank in range(2)]
    save(tmp_path, 1, [[pieces[0], full_piece("scalar", "weight", scalar)], [pieces[1]]])
    read = documented()["read"]
    assert torch.equal(torch.from_numpy(read(tmp_path / "step-00000001", "columns")), columns)
    assert read(tmp_path / "step-00000001", "scalar") == 2.5
