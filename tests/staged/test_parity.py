"""Layouts of several stages against one process running the whole model."""

import pytest

from tests.distributed.reference import tiny
from tests.distributed.settled import check


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize(
    ("parallel", "micro_batch"),
    [
        ({"placement": "staged", "ep": 4, "tp": 2}, 2),
        ({"placement": "staged", "ep": 2, "tp": 2, "pp": 2}, 2),
        ({"placement": "staged", "ep": 2, "tp": 1, "dp": 2}, 1),
        ({"ep": 2, "pp": 2}, 2),
    ],
    ids=["2+4+2", "2+2·2+2", "dp2", "pp2"],
)
def test_stages_equal_one_process(parallel: dict[str, object], micro_batch: int, zero_stage: int) -> None:
    check(tiny(parallel={**parallel, "zero_stage": zero_stage}, training__micro_batch=micro_batch))
