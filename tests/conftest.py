"""Settings that every test shares: few threads, no progress from libraries, no colour."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import markers

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["NO_COLOR"] = "1"
# Ranks are forked from a parent that has computed: with a GPU in sight, autograd would have threads by then,
# which do not live on in a fork.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# An operator's variables would change the plans under test.
for name in ("EMBEDDING_GPUS", "EXPERT_GPUS", "AGGREGATION_GPUS", "MAX_MEMORY_PER_GPU", "MEMORY_FRACTION"):
    os.environ.pop(name, None)

# An example takes as long as the machine is busy; 200 ms, the default, is a wall-clock test nobody meant.
hypothesis.settings.register_profile("switchyard", deadline=None)
hypothesis.settings.load_profile("switchyard")

RUNS = Path(__file__).parents[1] / "runs"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without torch, what needs it is left out: `make test-fast` runs in an environment that has none."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and not markers.has_torch() and "torch" in markers.needs(collection_path):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in sorted(markers.needs(item.path)):
            item.add_marker(name)


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration changes predictions, a ledger the error bar; tests that want them make their own."""
    import planner.hardware.catalog
    import planner.report.ledger

    def unless_ours(find: Callable[..., Any], nothing: object) -> Callable[..., Any]:
        def found(folder: object, *more: Sequence[str]) -> Any:
            return nothing if Path(str(folder)).resolve() == RUNS.resolve() else find(folder, *more)

        return found

    without_calibration = unless_ours(planner.hardware.catalog.calibration_path, None)
    monkeypatch.setattr("launch.commands.prediction.calibration_path", without_calibration)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(RUNS / "nobody"))  # no devices of the user's own either
    monkeypatch.setattr(
        "planner.report.ledger.read_ledger", unless_ours(planner.report.ledger.read_ledger, ())
    )
