"""As in unit tests, whatever lies in `runs/` is not found."""

from tests.unit.conftest import no_runs

__all__ = ["no_runs"]
