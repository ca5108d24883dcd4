"""Two plans side by side: numbers of each, their ratio, the keys that differ; overrides apply to both."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import build_plan, load
from planner.prediction.predict import predict
from planner.report.comparison import readable_ratio

STAGED, COLOCATED = "ds_configs/ep64_tp2_staged.yaml", "ds_configs/ep64_tp2.yaml"


def table_rows(out: str) -> dict[str, list[str]]:
    """Rows of plain tables by their first cell; cells are parted by two blanks or more."""
    rows = ([cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in out.splitlines())
    return {row[0]: row[1:] for row in rows if row}


def test_two_strategies_are_shown_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STAGED, COLOCATED, "--plain"]) == 0
    out = capsys.readouterr().out
    rows = table_rows(out)
    assert rows["placement"] == ["staged", "colocated"]
    assert rows["ranks"] == ["68", "64", "0.941"]  # 64/68
    assert rows["hosts used"] == ["9", "8", "0.889"]
    assert rows["parameters"] == ["4,372,595,712", "4,372,595,712", "1"]
    assert rows["parallel.placement"] == ["staged", "colocated"]
    assert rows["cluster.spare_hosts"] == ["7", "0"]
    assert "parallel.ep" not in rows
    assert "\x1b" not in out


def test_the_verdict_is_the_ratio_of_tokens_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "tp1.yaml"
    text = Path(COLOCATED).read_text(encoding="utf-8")
    other.write_text(text.replace("EP64_TP2_PP1_DP1", "EP64_TP1_PP1_DP1"), encoding="utf-8")
    two, one = (predict(build_plan(load(file))).tokens_per_s for file in (COLOCATED, other))
    assert one > two
    assert main(["plan", COLOCATED, str(other)]) == 0
    assert capsys.readouterr().out.startswith(f"B is {one / two:.2f} times as fast as A in tokens/s\n")
    assert main(["plan", str(other), COLOCATED]) == 0
    assert capsys.readouterr().out.startswith(f"A is {one / two:.2f} times as fast as B in tokens/s\n")


def test_overrides_apply_to_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STAGED, COLOCATED, "training.global_batch=256", "name=both", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["command"], answer["code"]) == ("plan", 0)
    assert [side["file"] for side in answer["plans"]] == [STAGED, COLOCATED]
    assert [side["plan"]["batch"]["global_batch"] for side in answer["plans"]] == [256, 256]
    quantities = {item["name"]: (item["a"], item["b"]) for item in answer["comparison"]["quantities"]}
    assert quantities["tokens per step"] == (262_144, 262_144)
    for which, side in zip("ab", answer["plans"], strict=True):
        index = "ab".index(which)
        assert quantities["step time"][index] == side["prediction"]["step_s"]["expected"]
    keys = [item["key"] for item in answer["comparison"]["differing_keys"]]
    assert keys == ["cluster.spare_hosts", "parallel.placement"]


def test_the_same_twice_differs_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", COLOCATED, COLOCATED, "--plain"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A and B have the same throughput\n")
    assert "note: no key that affects the plan differs" in out
    assert "Keys that differ" not in out


def test_mistakes_of_both_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, ep in (("a.yaml", 3), ("b.yaml", 5)):
        text = Path(COLOCATED).read_text(encoding="utf-8").replace("EP64_TP2_PP1_DP1", f"EP{ep}_TP1_PP1_DP1")
        (tmp_path / name).write_text(text.replace("ep: 64", f"ep: {ep}"), encoding="utf-8")
    assert main(["plan", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 2
    err = capsys.readouterr().err
    assert "a.yaml" in err
    assert "b.yaml" in err
    assert "3 does not divide" in err
    assert "5 does not divide" in err


def test_full_prints_both_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STAGED, COLOCATED, "--full"]) == 0
    out = capsys.readouterr().out
    assert f"# A: {STAGED}\nname: ep64_tp2_staged\n" in out
    assert f"# B: {COLOCATED}\nname: ep64_tp2\n" in out


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(8.55e-05, "1 / 11,696"), (0.0123, "0.0123"), (0.85, "0.85"), (1, "1"), (12345.6, "12,346"), (0, "0")],
)
def test_a_ratio_of_any_size_reads_without_an_exponent(ratio: float, text: str) -> None:
    assert readable_ratio(ratio) == text
