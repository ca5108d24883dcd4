"""`python -m launch drill`: what it refuses."""

from pathlib import Path

import pytest

from launch.__main__ import main
from tests.support.launching import STRATEGY


def test_an_unknown_kind_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = tmp_path / "smoke.yaml"
    strategy.write_text(STRATEGY.format(text="null", runs=tmp_path))
    assert main(["drill", str(strategy), "--kind", "sigkil"]) == 2
    told = capsys.readouterr().err
    assert "SW471 no kind of drill: sigkil" in told
    assert "held-lock" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mtbf", "10"), "SW478 --mtbf '10' is no time between faults: '10' has no unit"),
        (("--mtbf", "0 s"), "SW478"),
        (("--mtbf", "2m"), "fix:      write --mtbf '2 min'"),
        (("--kind", "cut-network"), "cut-network"),
    ],
)
def test_what_cannot_be_drilled_at_random_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    strategy = tmp_path / "smoke.yaml"
    strategy.write_text(STRATEGY.format(text="null", runs=tmp_path))
    assert main(["drill", str(strategy), "--hours", "1", *words]) == 2
    assert told in capsys.readouterr().err
