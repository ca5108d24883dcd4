"""What unit tests find in `runs/`: nothing, whatever `make bench` or a run has left there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

RUNS = Path(__file__).parents[2] / "runs"


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration changes predictions, a ledger the error bar; tests that want them make their own."""
    import planner.hardware
    import planner.ledger

    def unless_ours(find: Callable[..., Any], nothing: object) -> Callable[..., Any]:
        def found(folder: object, *more: Sequence[str]) -> Any:
            return nothing if Path(str(folder)).resolve() == RUNS.resolve() else find(folder, *more)

        return found

    without_calibration = unless_ours(planner.hardware.calibration_path, None)
    for user in ("launch.forecast", "launch.audit"):
        monkeypatch.setattr(f"{user}.calibration_path", without_calibration)
    monkeypatch.setattr("planner.ledger.read_ledger", unless_ours(planner.ledger.read_ledger, ()))
