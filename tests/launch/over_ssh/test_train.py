"""Training on one host and on two, by the generated script and by hand, and what stops it at the start."""

import os
from pathlib import Path

import pytest

from planner.paths import PROJECT
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

TWO_RANKS = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=1", "parallel={ep: 2, zero_stage: 1}")
AN_HOUR_AHEAD = """\
if command -v faketime >/dev/null; then
  exec faketime -f +1h bash -c "$SSH_ORIGINAL_COMMAND"
fi
"""


def test_one_host_trains_with_the_files_and_variables_of_the_launch(one_host: Job) -> None:
    assert one_host.read("done.json")["step"] == 40
    # Rank 0 writes the plan's files again, for its own plan and variables: the same bytes.
    for name in ("strategy.yaml", "plan.json", "ds_config.json"):
        assert (one_host.run / name).read_bytes() == one_host.files[name]
    environment = one_host.read("plan.json")["environment"]
    assert (environment["EMBEDDING_GPUS"], environment["EXPERT_GPUS"]) == ("0-3", "0-3")
    assert one_host.processes() == []


@pytest.mark.slow
def test_by_hand_and_with_a_wrong_clock_on_one_host(tmp_path: Path, hosts: LoopbackHosts) -> None:
    hosts.hook("node2", AN_HOUR_AHEAD)
    job = Job(tmp_path, "by-hand", hosts.ssh_config, *TWO_RANKS, "training.steps=4")
    command = [str(PROJECT / ".venv/bin/deepspeed")] if (PROJECT / ".venv/bin/deepspeed").exists() else []
    command = command or ["deepspeed"]
    command += ["--hostfile", str(job.run / "hostfile"), "--no_ssh_check", "--master_addr", "127.0.7.1"]
    command += ["--master_port", "29611", "train.py", "--strategy", str(job.run / "strategy.yaml")]
    options = f"-F {hosts.ssh_config}"
    env = {"DS_ENV_FILE": str(job.run / "env"), "PDSH_SSH_ARGS_APPEND": options, "DS_ACCELERATOR": "cpu"}
    try:
        job.start_command(command, cwd=PROJECT, env=env)
        _, said = job.finish()
    finally:
        job.kill_all()
    assert (job.run / "done.json").exists(), said
    assert job.read("done.json")["step"] == 4
    assert job.processes() == []


@pytest.mark.slow
def test_another_torch_on_one_host_ends_every_rank_with_2(tmp_path: Path, hosts: LoopbackHosts) -> None:
    stub = tmp_path / "stub" / "torch-2.12.0.dist-info"
    stub.mkdir(parents=True)
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0\n")
    change = f"SSH_ORIGINAL_COMMAND=${{SSH_ORIGINAL_COMMAND/PYTHONPATH=/PYTHONPATH={stub.parent}:}}\n"
    hosts.hook("node2", change)
    job = Job(tmp_path, "torch", hosts.ssh_config, *TWO_RANKS)
    try:
        job.start()
        code, said = job.finish()
    finally:
        job.kill_all()
    assert code == 2, said
    assert f"rank 1 on {os.uname().nodename} has torch 2.12.0\n  expected: torch " in said
    assert said.count("has torch 2.12.0") == 1
    for node in ("node1", "node2"):
        assert f"{node}: ssh exited with exit code 2" in said
    assert job.read("failed.json")["code"] == 2
    assert job.processes() == []
