"""Ranks on several hosts over ssh, by each script that reaches them: losses, clean stops, too few ranks."""

import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from launch.scripts.launch_files import FILE_NAMES
from planner.paths import PROJECT
from tests.smoke.conftest import MPI
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

pytestmark = pytest.mark.slow
TWO = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")
TARGETS = ["deepspeed", "mpi"]


def start(job: Job, target: str) -> None:
    if target == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    job.start_command([str(job.run / FILE_NAMES[target])], cwd=job.run, env=MPI)


def test_mpirun_trains_what_one_host_trains(tmp_path: Path, hosts: LoopbackHosts, one_host: Job) -> None:
    job = Job(tmp_path, "mpi", hosts.ssh_config, *TWO, targets=("mpi",))
    try:
        start(job, "mpi")
        code, said = job.finish()
    finally:
        job.kill_all()
    assert code == 0, said
    assert job.losses() == one_host.losses()
    assert (job.run / "logs/mpirun.hosts").read_text().split() == ["node1", "node1", "node2", "node2"]
    assert job.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("target", TARGETS)
def test_a_stop_is_saved_and_said_at_the_end_of_the_terminal(
    target: str, number: signal.Signals, tmp_path: Path, hosts: LoopbackHosts
) -> None:
    more = ("training.steps=100000", "output.checkpoint_every=50000")
    job = Job(tmp_path, "stops", hosts.ssh_config, *TWO, *more, targets=(target,))
    try:
        start(job, target)
        job.wait_for_step(3)
        job.send(number)
        code, _ = job.finish(120)
    finally:
        job.kill_all()
    terminal = job.output.read_text()
    failed = job.read("failed.json")
    saved = failed["checkpoint"]
    assert code == failed["code"] == 130, terminal
    assert saved >= 3
    last = f"stopped by SIGTERM, saved at step {saved}; started again, the run resumes"
    assert terminal.splitlines()[-1] == f"{FILE_NAMES[target]}: {last}"
    assert "Traceback" not in terminal
    assert job.processes() == []


@pytest.mark.parametrize("launcher", ["deepspeed", "mpirun"])
def test_too_few_processes_end_at_once_with_the_launchers_own_command(
    launcher: str, tmp_path: Path, hosts: LoopbackHosts
) -> None:
    """One process on each of two hosts, for a plan of four ranks."""
    job = Job(tmp_path, "few", hosts.ssh_config, *TWO)
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("node1 slots=1\nnode2 slots=1\n")
    options = f"-F {hosts.ssh_config}"
    env = MPI | {"PDSH_SSH_ARGS_APPEND": options, "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.7.1"}
    program = ["train.py", "--strategy", str(job.run / "strategy.yaml")]
    here = Path(sys.executable).parent
    command = [str(here / "deepspeed"), "--hostfile", str(hostfile), "--no_ssh_check"]
    command += ["--master_addr", "127.0.7.1", "--master_port", "29613", *program]
    if launcher == "mpirun":
        if shutil.which("mpirun") is None:
            pytest.skip("mpirun missing (apt-get install openmpi-bin)")
        command = ["mpirun", "-np", "2", "--hostfile", str(hostfile), "--mca", "plm_rsh_args", options]
        command += ["--wdir", str(PROJECT), "-x", "MASTER_ADDR", sys.executable, *program]
    began = time.monotonic()
    try:
        job.start_command(command, cwd=PROJECT, env=env)
        code, said = job.finish(240)
    finally:
        job.kill_all()
    assert code != 0
    assert said.count("SW602") == 1, said
    assert "has 4 ranks; 2 processes were started" in said
    fix = re.search(r"start it with (.* train\.py ….*), or change", said)
    assert fix is not None
    assert launcher in fix[1]
    assert "Traceback" not in said
    assert job.read("failed.json")["code"] == 2
    assert job.processes() == []
    assert time.monotonic() - began < 120, "launch.timeout, of which nobody has to wait for the end, is 600 s"


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
