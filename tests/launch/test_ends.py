"""However a job ends, nothing of it is left on any host, and other jobs on the same hosts go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.hosts import LoopbackHosts
from tests.launch.jobs import Job

TWO = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")


@pytest.fixture
def light(tmp_path: Path, hosts: LoopbackHosts) -> Iterator[Job]:
    """Four ranks that train nothing on two hosts, all started."""
    job = Job(tmp_path, "light", hosts, *TWO, light=True)
    job.start()
    job.wait_for_light_ranks()
    yield job
    job.kill_all()


def test_interrupt_asks_each_rank_and_leaves_nothing(light: Job) -> None:
    light.send(signal.SIGINT)
    code, _ = light.finish()
    assert code == 130
    assert light.ends() == dict.fromkeys(range(4), "asked by SIGTERM")
    assert light.processes() == []
