"""Orders, ties, the front and the fewest GPUs of a search: by hand, or by trying everything."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from launch.__main__ import main
from planner import build_plan, load
from planner.hardware.catalog import device_of
from planner.prediction.breakdown import step_causes
from planner.prediction.predict import predict
from planner.report.ledger import ErrorBar
from planner.report.search_notes import search_notes, why_nothing
from planner.report.search_report import SearchView, search_table
from planner.report.step_svg import step_bars
from planner.search.fewest_gpus import fewest_gpus
from planner.search.search import Search, SearchRow, pareto_front, search
from planner.search.selection import gpu_seconds_per_million, order_rows, thin_evenly, tied_with_first
from planner.search.trainable import missing_of

TINY = "ds_configs/tiny_cpu.yaml"
SVG = "{http://www.w3.org/2000/svg}"


def _row(tokens_per_s: float, gpus: int, headroom_bytes: int = 0) -> SearchRow:
    row = SimpleNamespace(tokens_per_s=tokens_per_s, gpus=gpus, headroom_bytes=headroom_bytes)
    return cast(SearchRow, row)


@pytest.fixture(scope="module")
def found() -> Search:
    return search(load(TINY))


def test_the_front_is_complete_and_unbeaten() -> None:
    """Against all pairs, over every combination of small figures."""
    rows = [_row(-i, (7 * i) % 11, (5 * i * i) % 13) for i in range(200)]

    def is_matched(row: SearchRow, before: list[SearchRow]) -> bool:
        return any(f.gpus <= row.gpus and f.headroom_bytes >= row.headroom_bytes for f in before)

    expected = [row for i, row in enumerate(rows) if not is_matched(row, rows[:i])]
    assert pareto_front(rows) == expected
    assert 3 < len(expected) < 50


def test_ties_are_within_the_error_of_a_step() -> None:
    """±25 %: 100 tokens/s may be 80. Of costs 1 GPU at 100 is 10,000 GPU-s, which may be 12,500."""
    rows = (_row(100, 1), _row(81, 1), _row(79, 1))
    assert tied_with_first(rows, "throughput", 0.25) == (True, True, False)
    assert [round(gpu_seconds_per_million(row)) for row in rows] == [10_000, 12_346, 12_658]
    assert tied_with_first(rows, "cost", 0.25) == (True, True, False)
    assert tied_with_first(rows, "throughput", None) == (None, None, None)
    assert tied_with_first((_row(9, 2), _row(1, 2), _row(9, 3)), "gpus", None) == (True, True, False)


def test_a_front_is_thinned_evenly_with_both_ends() -> None:
    rows = [_row(i, 1) for i in range(9)]
    assert [row.tokens_per_s for row in thin_evenly(rows, 3)] == [0, 4, 8]
    assert [row.tokens_per_s for row in thin_evenly(rows, 1)] == [0]
    assert thin_evenly(rows, 20) == tuple(rows)


def test_orders(found: Search) -> None:
    missing = missing_of(found.rows)
    fewest = order_rows(found, "gpus", missing).rows
    assert [row.gpus for row in fewest] == sorted(row.gpus for row in found.rows)
    assert fewest[0].tokens_per_s == max(row.tokens_per_s for row in found.rows if row.gpus == 1)
    cheapest = order_rows(found, "cost", missing).rows
    per_gpu = [row.tokens_per_s / row.gpus for row in cheapest]
    assert per_gpu == sorted(per_gpu, reverse=True)


def test_cost_is_money_where_a_gpu_has_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["search", TINY, "--by", "cost", "--rows", "1"]
    assert main([*call, "cluster.cost=3.6 $/GPU-hour", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["cost_per_million_tokens"] == pytest.approx(row["gpus"] * 0.001 * 1e6 / row["tokens_per_s"])
    assert main([*call, "--plain"]) == 0
    assert "GPU-s/Mtoken" in capsys.readouterr().out


def test_only_trainable_rows_and_the_entire_front(capsys: pytest.CaptureFixture[str]) -> None:
    # Some layouts fit only with complete layers recomputed, which does not run with DeepSpeed's dispatch.
    stock = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")
    changed = ["search", TINY, "limits.memory_max=600 MB", *stock, "data.validation_sequences=72"]
    call = [*changed, "--rows", "100000", "--json"]
    assert main(call) == 0
    everything = json.loads(capsys.readouterr().out)
    assert main([*call, "--trainable"]) == 0
    only = json.loads(capsys.readouterr().out)
    assert 0 < len(only["rows"]) < len(everything["rows"])
    assert only["rows"] == [row for row in everything["rows"] if row["trainable"]]
    assert all(row["trainable"] for row in only["pareto"])
    assert main([*changed, "--rows", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pareto"] == everything["pareto"]


def test_ties_are_shown_or_said_to_be_unknown(found: Search) -> None:
    given, missing = load(TINY), missing_of(found.rows)
    device = device_of(given.cluster.gpu)
    for error in (None, ErrorBar(num_runs=3, median=0.1, largest=0.2)):
        view = SearchView(found=found, missing=missing, by="throughput", varied=(), error=error)
        table = search_table("", found.rows[:5], view)
        assert ("tie" in table.columns) == (error is not None)
        notes = " ".join(search_notes(given, (), view, device))
        assert ("planner's error is unknown" in notes) == (error is None)
        assert ("±10% (median of 3 measured runs" in notes) == (error is not None)


def test_what_is_varied_has_columns_and_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", TINY, "--vary", "precision,global_batch", "--rows", "2", "--plain"]) == 0
    out = capsys.readouterr().out
    (held,) = (line for line in out.splitlines() if line.startswith("held: "))
    assert "fp32" not in held.partition("; varied: ")[0]
    assert held.endswith("precision, global_batch")
    columns = next(line for line in out.splitlines() if line.strip().startswith("#")).split()
    assert {"precision", "batch"} <= set(columns)


def test_the_fewest_gpus_are_those_of_a_larger_search() -> None:
    """With so many hosts that something fits, no row of a complete search has fewer GPUs."""
    tight = ["limits.memory_max=460 MB"]
    given = load(TINY, tight)
    assert not search(given).rows
    plan = fewest_gpus(given)
    assert plan is not None
    larger = search(load(TINY, [*tight, "cluster.hosts=8"]))
    assert plan.world_size == min(row.gpus for row in larger.rows) > 4


def test_nothing_fits_on_any_number_of_gpus() -> None:
    given = load(TINY, ["limits.memory_max=400 MB"])  # a CPU rank's overhead alone is 434 MB
    nothing = search(given)
    view = SearchView(found=nothing, missing={}, by="throughput", varied=(), error=None)
    assert "nor on 4,096 such GPUs" in why_nothing(given, view, is_trainable_only=False)


def test_the_plot_marks_the_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "search.svg"
    assert main(["search", TINY, "--json", "--rows", "1", "--plot", str(file)]) == 0
    front = json.loads(capsys.readouterr().out)["pareto"]
    marks = [
        circle.findtext(f"{SVG}title") or ""
        for circle in ET.parse(file).getroot().iter(f"{SVG}circle")
        if circle.get("class") == "front"
    ]
    assert len(marks) == len(front)
    for mark, row in zip(marks, front, strict=True):
        assert mark.endswith(f"{row['gpus']} GPUs, {row['tokens_per_s']:,.0f} tokens/s")
    bars = [text for text in ET.parse(file).getroot().itertext() if text.endswith("%")]
    assert any(text.startswith("matmuls: ") for text in bars)
    nowhere = str(tmp_path / "nowhere" / "search.svg")
    assert main(["search", TINY, "--plot", nowhere]) == 2
    assert "SW380" in capsys.readouterr().err


def test_a_steps_causes_sum_to_the_step_and_all_are_drawn() -> None:
    staged = load("ds_configs/ep64_tp2_staged.yaml")
    for given in (staged, load(TINY), load(TINY, ["parallel=EP2_TP2_PP2_DP1"])):
        plan = build_plan(given)
        prediction = predict(plan)
        causes = step_causes(plan, prediction.stages)
        assert sum(causes.values()) == pytest.approx(prediction.step_s)
        phases = prediction.mean_phases_s
        assert causes.get("optimizer") == pytest.approx(phases["optimizer"])
        compute = ("matmuls", "memory-bound operations", "issuing operations")
        assert sum(causes.get(kind, 0.0) for kind in compute) == pytest.approx(phases["compute"])
        drawn = ET.fromstring(f"<svg>{''.join(step_bars([('one', causes)], 0, 960, 0))}</svg>")
        width = sum(float(bar.get("width", 0)) for bar in drawn if bar.find("title") is not None)
        assert width == pytest.approx(960 - 330 - 90, abs=1.0)


def test_an_unknown_order_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", TINY, "--by", "price"]) == 2
    assert "SW494 --by: unknown order 'price'" in capsys.readouterr().err
