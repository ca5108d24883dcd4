"""A disk that fills up between two checkpoints: the terminal has the reason, whatever cannot be written."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

pytestmark = pytest.mark.slow
TWO_RANKS = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=1", "parallel={ep: 2, zero_stage: 1}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64m") as folder:
        yield folder


def fill(disk: Path) -> None:
    with (disk / "fill").open("wb", buffering=0) as file:
        while (free := os.statvfs(disk)).f_bavail:
            file.write(bytes(free.f_bavail * free.f_bsize))


def test_it_ends_the_run_with_its_reason_and_the_run_resumes(
    tmp_path: Path, hosts: LoopbackHosts, disk: Path
) -> None:
    more = ("training.steps=100000", "output.checkpoint_every=5", f"output.folder={disk}")
    job = Job(tmp_path, "fills", hosts.ssh_config, *TWO_RANKS, *more)
    job.output = tmp_path / "terminal"
    try:
        job.start()
        job.wait_for_step(7)
        fill(disk)
        code, _ = job.finish()
    finally:
        job.kill_all()
    terminal = job.output.read_text()
    assert code == 3, terminal
    assert "No space left on device" in terminal
    assert "failed.json could not be written" in terminal
    assert not (job.run / "failed.json").exists()
    assert "see failed.json" not in terminal, "it is not there"
    assert "Traceback" not in terminal
    assert job.processes() == []
    (disk / "fill").unlink()
    try:
        job.start()
        last = max(line["step"] for line in job.lines())
        job.wait_for_step(last + 1)
    finally:
        job.kill_all()
