"""The table in the docs says what was run, what was worst, and what is not equal."""

from collections import Counter

from tests.distributed.matrix import LAYOUTS, Case, everything
from tests.distributed.matrix_run import by_lot, run_case
from tests.distributed.matrix_table import Result, document


def test_a_sample_is_fair_to_all_layouts() -> None:
    cases = by_lot(everything())
    assert set(cases) == set(everything())
    assert set(Counter(case.layout for case in cases[:40]).values()) == {2}


def test_the_document_tells_a_sample_from_the_whole_and_lists_what_differs() -> None:
    near, far = by_lot(everything())[:2]
    results = [
        Result(
            case=near, worst={"loss": 2e-7, "weight of dense": 3e-6, "exp_avg of expert": 4e-6}, failure=None
        ),
        Result(case=far, worst={"loss": 5e-3}, failure="loss by 5.0e-03 (step 0)"),
    ]
    text = document(results, 4320, 1.0, "python -m somewhere")
    assert "**2 of 4,320 cases, drawn by lot, all layouts alike, in fp32**" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {near.layout} |"))
    assert row.split(" | ")[1:4] == [str(near.layout.world), "1", "2.0e-07"]
    assert row.split(" | ")[-3:] == ["3.0e-06", "4.0e-06", "yes |"]
    assert f"- `{far}`: loss by 5.0e-03 (step 0)" in text
    assert "**1 of 1 not**" in text
    assert text.count("not run") == len(LAYOUTS) - 2
    assert "all 2 cases in fp32" in document(results, 2, 1.0, "python -m somewhere")


def test_a_case_that_raises_is_a_result() -> None:
    """Nine experts a token, where there are eight."""
    result = run_case(Case(layout=LAYOUTS[0], top_k=9))
    assert result.failure is not None
    assert not result.worst
