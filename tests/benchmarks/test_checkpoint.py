"""The bench of checkpoints runs, compares what it loads with what it saved, and leaves only its report."""

import json
from pathlib import Path

import pytest

from benchmarks.checkpoint import main


def test_it_measures_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert main(["--mib", "48", "--rounds", "2", "--folder", str(tmp_path), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {len(seconds) for seconds in report["seconds"].values()} == {2}
    assert all(second > 0 for seconds in report["seconds"].values() for second in seconds)
    printed = capsys.readouterr().out
    assert "save / dd" in printed
    assert "load / slower of dd, sha256" in printed
    assert list(tmp_path.iterdir()) == [out]
