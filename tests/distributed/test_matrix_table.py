"""The matrix runs every case once and keeps its results; its table lists failures."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import matrix_run
from tests.support.matrix import CUTS, LAYOUTS, Case, everything, in_bf16
from tests.support.matrix_run import Log, by_lot, by_world, run_cases
from tests.support.matrix_table import Result, document


def test_a_sample_is_fair_to_all_layouts() -> None:
    cases = by_lot(everything())
    assert set(cases) == set(everything())
    assert set(Counter(case.layout for case in cases[:40]).values()) == {2}


def test_the_document_marks_a_sample_and_lists_failures() -> None:
    near, far = by_lot(everything())[:2]
    results = [
        Result(
            case=near, worst={"loss": 2e-7, "weight of dense": 3e-6, "exp_avg of expert": 4e-6}, failure=None
        ),
        Result(case=far, worst={"loss": 5e-3}, failure="loss by 5.0e-03 (step 0)"),
    ]
    text = document(results, 4320, 1.0, "python -m somewhere")
    assert "**2 of 4,320 cases, drawn by lot, in fp32**" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {near.layout} |"))
    assert row.split(" | ")[1:4] == [str(near.layout.world), "1", "2.0e-07"]
    assert row.split(" | ")[-3:] == ["3.0e-06", "4.0e-06", "yes |"]
    assert f"- `{far}`: loss by 5.0e-03 (step 0)" in text
    assert "**1 of 1 not**" in text
    assert text.count("not run") == len(LAYOUTS) - 2 + len(CUTS)
    assert "all 2 cases in fp32" in document(results, 2, 1.0, "python -m somewhere")


def test_cases_of_one_model_share_a_world_and_run_once() -> None:
    cases = [*everything(), *in_bf16()]
    worlds = by_world(cases)
    assert Counter(case for world in worlds for case in world) == Counter(cases)
    assert all(len({(case.layout, case.precision) for case in world}) == 1 for world in worlds)
    assert max(map(len, worlds)) == 24
    assert len({world[0].layout for world in worlds[: len(LAYOUTS)]}) == len(LAYOUTS)


def test_a_case_that_raises_is_a_result_and_the_others_still_run() -> None:
    """Nine experts a token, where there are eight."""
    good = Case(layout=LAYOUTS[0])
    first, bad, last = run_cases([good, replace(good, top_k=9), replace(good, top_k=2)])
    assert bad.failure is not None
    assert not bad.worst
    assert first.failure is None
    assert last.failure is None
    assert 0 < last.worst["gradient of expert"] < 1e-5


def test_a_case_whose_result_depends_on_earlier_cases_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter((1e-7, 1e-7, 2e-7))
    monkeypatch.setattr(
        matrix_run,
        "run_case",
        lambda case, world: Result(case=case, worst={"loss": next(losses)}, failure=None),
    )
    first, second = run_cases([Case(layout=LAYOUTS[0]), Case(layout=LAYOUTS[0], top_k=2)])
    assert first.failure is not None
    assert "comes out otherwise after 1 other cases" in first.failure
    assert second.failure is None


def test_results_are_kept_for_the_same_code_and_no_other(tmp_path: Path) -> None:
    path, case, other = tmp_path / "matrix.jsonl", *everything()[:2]
    result = Result(case=case, worst={"loss": 2e-7}, failure="a reason")
    log = Log(path, {"code": "1"}, fresh=False)
    log.add(result, 1.5)
    with path.open("a") as file:
        file.write('{"case": "cut sho')
    again = Log(path, {"code": "1"}, fresh=False)
    assert again.find(case) == result
    assert again.find(other) is None
    assert again.spent_s == 1.5
    again.add(replace(result, case=other), 1.0)
    assert [json.loads(line).get("case") for line in path.read_text().splitlines()] == [
        None,
        str(case),
        str(other),
    ]
    assert Log(path, {"code": "1"}, fresh=True).find(case) is None
    again.add(result, 1.0)
    assert Log(path, {"code": "2"}, fresh=False).find(case) is None
