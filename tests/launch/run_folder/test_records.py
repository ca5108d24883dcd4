"""Lines of a run's files that may be of another version, or damaged."""

import json
from typing import Any

import pytest

from launch.run_folder.records import parse_experts


def _parsed(tokens: Any, step: Any = 3) -> Any:
    return parse_experts(json.loads(json.dumps({"step": step, "tokens": tokens})))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([0.5, 2, 3], [0.5, 2, 3]),
        ([1, None, "2"], [1, 0, 0]),
        ([1, True, 2], [1, 0, 2]),
        ([1, 10**400, 2], [1, 0, 2]),
        ([1, float("nan"), float("inf")], [1, 0, 0]),
    ],
)
def test_what_is_no_number_counts_nothing(layer: list[Any], expected: list[float]) -> None:
    assert _parsed([layer, [4, 5, 6]]) == (3, [expected, [4, 5, 6]])


@pytest.mark.parametrize("tokens", [[], None, "1", [[]], [[1, 2], [3]], [[1, 2], 3]])
def test_a_line_of_another_form_is_none(tokens: Any) -> None:
    assert _parsed(tokens) is None
    assert _parsed([[1, 2]], step="3") is None
