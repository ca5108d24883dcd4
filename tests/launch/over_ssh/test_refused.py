"""What launch.sh finds out before it starts anything: in seconds, with the host's name and the reason."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

TWO = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")


def refused(job: Job) -> str:
    """What launch.sh said; nothing was started, and nothing is left."""
    began = time.monotonic()
    job.start()
    try:
        code, said = job.finish()
    finally:
        job.kill_all()
    assert code == 2, said
    assert not (job.run / "light").exists()
    assert not (job.run / "done.json").exists()
    assert list((job.run / "logs").glob("job-*")) == []
    assert time.monotonic() - began < 30
    return said


def test_a_host_that_is_down(tmp_path: Path, hosts: LoopbackHosts) -> None:
    config = hosts.ssh_config.read_text().replace("127.0.7.2", "127.0.8.2")  # nobody listens there
    (tmp_path / "ssh_config").write_text(config)
    job = Job(tmp_path, "down", tmp_path / "ssh_config", *TWO, light=True)
    said = refused(job)
    assert "node2: ssh: connect to host 127.0.8.2" in said
    assert "Connection refused" in said
    assert "node1:" not in said
    assert "launch.sh: SW433 " in said


def test_a_key_that_one_host_refuses(tmp_path: Path, hosts: LoopbackHosts) -> None:
    key = tmp_path / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    # ssh adds up keys from all sections that match.
    mine = f"Host * !node2\n  IdentityFile {hosts.key}\nHost node2\n  IdentityFile {key}\n"
    config = hosts.ssh_config.read_text().replace(f"  IdentityFile {hosts.key}\n", "")
    (tmp_path / "ssh_config").write_text(mine + config)
    job = Job(tmp_path, "key", tmp_path / "ssh_config", *TWO, light=True)
    said = refused(job)
    assert "node2: " in said
    assert "Permission denied (publickey)" in said
    assert "node1:" not in said


def test_a_host_that_does_not_share_the_folder(tmp_path: Path, hosts: LoopbackHosts) -> None:
    job = Job(tmp_path, "unshared", hosts.ssh_config, *TWO, light=True)
    elsewhere = f'SSH_ORIGINAL_COMMAND="${{SSH_ORIGINAL_COMMAND//{job.run}//nowhere}}"\n'
    hosts.hook("node2", elsewhere)
    said = refused(job)
    assert any(line.startswith("node2: ") and "not visible" in line for line in said.splitlines())
    assert "launch.sh: SW433 " in said
    assert "node1:" not in said


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "256k") as folder:
        yield folder


def test_a_full_disk(tmp_path: Path, hosts: LoopbackHosts, full_disk: Path) -> None:
    job = Job(tmp_path, "full", hosts.ssh_config, *TWO, f"output.folder={full_disk}", light=True)
    free = os.statvfs(full_disk)
    (full_disk / "fill").write_bytes(bytes(free.f_bavail * free.f_bsize))
    job.output = tmp_path / "launch.out"
    assert "No space left on device" in refused(job)
