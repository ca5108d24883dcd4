"""A host that goes away without a word: keep-alives and time limits end the job, and nothing is left."""

from typing import Any

import pytest

from tests.support.namespaces import run_inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside("tests.support.cut_off", tmp_path_factory.mktemp("cut"), timeout=1800)


@pytest.mark.parametrize("how", ["cut", "off"])
def test_the_job_ends_and_nothing_is_left(seen: dict[str, Any], how: str) -> None:
    end = seen[how]
    assert end["code"] == 3, end["said"]
    assert not end["done"]
    assert end["left"] == []
    assert end["seconds"] < 120
    assert "node2: ssh exited with exit code 255" in end["said"]
