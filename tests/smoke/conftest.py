"""A Slurm, and the losses that every launcher must give, once for all tests of launchers."""

from collections.abc import Iterator

import pytest

from tests.support.launching import Launch
from tests.support.slurm import Slurm, start_or_skip

# Root may use mpirun, with more processes than cores, none bound to a core.
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
OVERRIDES = ("training.steps=3", "output.checkpoint_every=100")
Losses = dict[int, tuple[float, float | None, float]]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    start_or_skip(slurm)
    yield slurm
    slurm.stop()


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Of DeepSpeed's own launcher."""
    launch = Launch(tmp_path_factory.mktemp("deepspeed"))
    launch.start(*OVERRIDES)
    code, output = launch.finish(300)
    assert code == 0, output
    return launch.losses()
