"""Ranks on several hosts over ssh by launch.mpirun.sh."""

import shutil
import signal
from pathlib import Path

import pytest

from launch.scripts.launch_files import FILE_NAMES
from tests.smoke.conftest import MPI
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

pytestmark = pytest.mark.slow
TWO = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")


def start(job: Job, target: str) -> None:
    if target == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    job.start_command([str(job.run / FILE_NAMES[target])], cwd=job.run, env=MPI)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_mpirun_places_ranks_and_passes_signals_on_to_every_host(
    number: signal.Signals, tmp_path: Path, hosts: LoopbackHosts
) -> None:
    """Ranks that train nothing."""
    given = "launch.environment={ODD: 'two words, it''s'}"
    job = Job(tmp_path, "light", hosts.ssh_config, *TWO, given, light=True, targets=("mpi",))
    try:
        start(job, "mpi")
        seen = job.wait_for_light_ranks(120)
        job.send(number)
        code, said = job.finish(60)
    finally:
        job.kill_all()
    for rank, saw in seen.items():
        environment = saw["environment"]
        assert environment["SSH_CONNECTION"].split()[2] == f"127.0.7.{1 + rank // 2}", "in the plan's order"
        assert environment["OMPI_COMM_WORLD_LOCAL_RANK"] == str(rank % 2)
        assert environment["ODD"] == "two words, it's"
        assert environment["MASTER_ADDR"] == "127.0.7.1"
    assert len({saw["environment"]["SWITCHYARD_SECRET"] for saw in seen.values()}) == 1
    heard = "SIGUSR1" if number == signal.SIGUSR1 else "SIGTERM"
    assert job.ends() == dict.fromkeys(range(4), f"asked by {heard}")
    assert code == 130, said
    assert said.splitlines()[-1] == ("launch.mpirun.sh: stopped on request; started again, the run resumes")
    assert job.processes() == []
