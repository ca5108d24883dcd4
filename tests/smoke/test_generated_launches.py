"""Scripts that `generate --for` writes, for real: the losses of DeepSpeed's launcher; how they stop."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.scripts.launch_files import FILE_NAMES
from tests.smoke.conftest import MPI, OVERRIDES, Losses
from tests.support.jobs import Job
from tests.support.launching import ROOT, Launch, free_port
from tests.support.slurm import Slurm

LONG = ("training.steps=2000", "output.checkpoint_every=1000")
# In place of ssh: what it is asked to run, on this machine.
LOCAL_SSH = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do
  case $1 in -o | -F) shift 2 ;; *) shift ;; esac
done
echo "$1" >>"{log}"
shift
exec bash -c "$*"
"""


def generate(launch: Launch, target: str, *overrides: str) -> None:
    words = ["generate", str(launch.strategy), *overrides, "--for", target]
    done = subprocess.run(
        [sys.executable, "-m", "launch", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def until(is_so: Callable[[], bool], timeout_s: float, told: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


def step_of(launch: Launch) -> int:
    path = launch.run / "telemetry.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def submit(slurm: Slurm, launch: Launch, *options: str) -> str:
    """The job's number. Its own environment is empty: what ranks need is in the script."""
    output = f"--output={launch.folder}/job.log"
    command = ["sbatch", "--parsable", "--export=NONE", output, *options, str(launch.run / "launch.sbatch")]
    return slurm.ask(*command).strip()


def log_of(launch: Launch) -> str:
    logs = [launch.folder / "job.log", *sorted((launch.run / "logs").glob("slurm-*.log"))]
    return "\n".join(f"== {log.name}\n{log.read_text()}" for log in logs if log.exists())


def is_gone(slurm: Slurm, job: str) -> bool:
    return slurm.ask("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T").strip() in (
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
    )


def test_slurm_takes_the_script_and_trains_the_same(tmp_path: Path, slurm: Slurm, expected: Losses) -> None:
    launch = Launch(tmp_path)
    slurm_options = "launch.slurm={partition: all, time: 30, cpus-per-task: 2, comment: 'a b'}"
    generate(launch, "slurm", *OVERRIDES, slurm_options, "launch.srun={cpu-bind: none, mpi: none}")
    assert "to start at" in slurm.ask("sbatch", "--test-only", str(launch.run / "launch.sbatch"))
    job = submit(slurm, launch)
    until(lambda: is_gone(slurm, job), 300, lambda: log_of(launch))
    assert launch.read("done.json")["step"] == 3, log_of(launch)
    assert launch.losses() == expected
    assert launch.processes() == []


@pytest.mark.slow
def test_a_slurm_job_stops_saves_is_requeued_and_resumes(tmp_path: Path, slurm: Slurm) -> None:
    """Ranks on two nodes, whose names do not resolve; the signal is Slurm's own, sent by hand."""
    launch = Launch(tmp_path)
    hosts = ("cluster.hosts=[node1 slots=1, node2 slots=1]", "launch.slurm={time: 30}")
    generate(launch, "slurm", *LONG, *hosts, "launch.prologue=['export LAUNCH_MASTER_ADDR=127.0.0.1']")
    job = submit(slurm, launch)
    until(lambda: step_of(launch) > 3, 300, lambda: log_of(launch))
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    until(lambda: "to be requeued" in log_of(launch), 120, lambda: log_of(launch))
    said = re.search(
        r"launch.sbatch: stopped by SIGUSR1, saved at step (\d+) near the time limit; to be", log_of(launch)
    )
    assert said is not None, log_of(launch)
    saved = int(said[1])
    assert saved > 3
    until(lambda: step_of(launch) > saved + 3, 300, lambda: log_of(launch))
    slurm.ask("scancel", job)
    until(lambda: is_gone(slurm, job), 120, lambda: log_of(launch))
    assert len(list((launch.run / "attempts").glob("*.json"))) == 2


@pytest.mark.slow
def test_torchrun_on_two_hosts_of_different_size_trains_the_same(tmp_path: Path) -> None:
    """Three ranks as 2 and 1, against `torchrun --nproc_per_node=3` on one host."""
    overrides = (*OVERRIDES, "parallel={ep: 1, dp: 3}", "training.global_batch=12")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = Launch(tmp_path / "one")
    generate(one, "torchrun", *overrides, "cluster.gpus_per_host=3")
    code, output = one.run_command(str(one.run / "launch.torchrun.sh"))
    assert code == 0, output

    first = Launch(tmp_path / "two")
    second = Launch(tmp_path / "two")
    generate(first, "torchrun", *overrides, "cluster.hosts=[a slots=2, b slots=1]")
    env = {"LAUNCH_MASTER_ADDR": "127.0.0.1", "LAUNCH_MASTER_PORT": str(free_port())}
    script = str(first.run / "launch.torchrun.sh")
    second.start_command([script, "1"], env=env)
    first.start_command([script, "0"], env=env)
    for code, output in (first.finish(300), second.finish(300)):
        assert code == 0, output
        assert "SW639" not in output, "the ranks of both share a secret"
    assert first.losses() == one.losses()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torchrun", "mpi"])
def test_a_signal_to_the_script_saves_and_says_so(target: str, tmp_path: Path) -> None:
    if target == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    launch = Launch(tmp_path)
    generate(launch, target, *LONG)
    name = {"torchrun": "launch.torchrun.sh", "mpi": "launch.mpirun.sh"}[target]
    launch.start_command([str(launch.run / name)], env=MPI)
    until(lambda: step_of(launch) > 3, 300, lambda: "no step")
    launch.terminate()
    code, output = launch.finish()
    assert code == 130, output
    saved = launch.read("failed.json")["checkpoint"]
    assert saved > 3
    said = f"{name}: stopped by SIGTERM, saved at step {saved}; started again, the run resumes"
    assert output.count(said) == 1, output
    assert launch.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["1", "[127.0.0.3 slots=1, 127.0.0.2 slots=1]"])
def test_mpirun_trains_the_same(hosts: str, tmp_path: Path, expected: Losses) -> None:
    """On several hosts each rank is where the hostfile has it, with the launch's variables."""
    if shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    launch = Launch(tmp_path)
    agent = tmp_path / "ssh"
    agent.write_text(LOCAL_SSH.format(log=tmp_path / "ssh.log"))
    agent.chmod(0o755)
    generate(launch, "mpi", *OVERRIDES, f"cluster.hosts={hosts}", "launch.environment={ODD: 'a $B;c, \"d\"'}")
    env = MPI | {"OMPI_MCA_plm_rsh_agent": str(agent), "LAUNCH_MASTER_ADDR": "127.0.0.1"}
    code, output = launch.run_command(str(launch.run / "launch.mpirun.sh"), env=env)
    assert code == 0, output
    assert launch.losses() == expected
    if hosts != "1":
        assert (launch.run / "logs/mpirun.hosts").read_text() == "127.0.0.3\n127.0.0.2\n"
        assert (tmp_path / "ssh.log").read_text().split() == ["127.0.0.3", "127.0.0.2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("target", ["torchrun", "mpi"])
def test_a_signal_to_the_script_reaches_every_rank(
    target: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Ranks that train nothing. A TERM and no USR1, so that one that hangs or still starts ends too."""
    if target == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    plan = ("cluster.gpus_per_host=2", "parallel={ep: 2, zero_stage: 1}")
    job = Job(tmp_path, "asked", None, *plan, light=True, targets=(target,))
    script = FILE_NAMES[target]
    try:
        job.start_command([str(job.run / script)], cwd=job.run, env=MPI)
        job.wait_for_light_ranks(120)
        job.send(number)
        code, said = job.finish(60)
    finally:
        job.kill_all()
    heard = "SIGUSR1" if number == signal.SIGUSR1 else "SIGTERM"
    assert job.ends() == dict.fromkeys(range(2), f"asked by {heard}")
    assert code == 130, said
    assert said.splitlines()[-1] == f"{script}: stopped on request; started again, the run resumes"
    assert job.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torchrun", "mpi"])
def test_a_killed_script_takes_its_ranks_with_it(target: str, tmp_path: Path) -> None:
    """Ranks that train nothing. torchrun and mpirun live on, but nobody would stop the ranks any more."""
    if target == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    plan = ("cluster.gpus_per_host=2", "parallel={ep: 2, zero_stage: 1}")
    job = Job(tmp_path, "killed", None, *plan, light=True, targets=(target,))
    try:
        job.start_command([str(job.run / FILE_NAMES[target])], cwd=job.run, env=MPI)
        job.wait_for_light_ranks(120)
        job.send(signal.SIGKILL)
        until(lambda: len(job.ends()) == 2, 30, job.said)
        until(lambda: job.processes() == [], 60, lambda: f"left: {job.processes()}")
    finally:
        job.kill_all()
    assert job.ends() == dict.fromkeys(range(2), "asked by SIGTERM")


@pytest.mark.slow
def test_torchrun_on_two_hosts_shares_a_secret_and_both_end_as_stopped(tmp_path: Path) -> None:
    """Ranks that train nothing, so that each host's script is asked."""
    hosts = ("cluster.hosts=[a slots=1, b slots=1]", "parallel={ep: 2, zero_stage: 1}")
    job = Job(tmp_path, "both", None, *hosts, light=True, targets=("torchrun",))
    env = {"LAUNCH_MASTER_ADDR": "127.0.0.1", "LAUNCH_MASTER_PORT": str(free_port())}
    script = str(job.run / "launch.torchrun.sh")
    first, second = (
        subprocess.Popen(
            [script, node], env=os.environ | env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for node in ("0", "1")
    )
    job.process = first
    try:
        seen = job.wait_for_light_ranks(120)
        first.terminate()
        second.terminate()
        _, said = first.communicate(timeout=60)
        _, said_there = second.communicate(timeout=90)
    finally:
        second.kill()
        job.kill_all()
    secrets = {saw["environment"]["SWITCHYARD_SECRET"] for saw in seen.values()}
    assert secrets == {(job.run / "logs/torchrun.secret").read_text()}
    assert first.returncode == 130, said
    assert job.ends() == dict.fromkeys(range(2), "asked by SIGTERM")
    assert second.returncode == 130, said_there
