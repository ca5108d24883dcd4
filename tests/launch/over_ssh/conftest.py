"""What launch tests share: hosts behind one sshd, and the losses of a training on one host."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from planner.paths import PROJECT
from tests.support.hosts import LoopbackHosts, start_or_skip
from tests.support.jobs import Job


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHosts]:
    made = LoopbackHosts(tmp_path_factory.mktemp("hosts"))
    start_or_skip(made)
    yield made
    made.stop()


@pytest.fixture
def hosts(loopback: LoopbackHosts) -> Iterator[LoopbackHosts]:
    """node1 … node9 over real ssh, each as plain as the other."""
    yield loopback
    loopback.clear_hooks()


@pytest.fixture(scope="session")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished training of four ranks on this machine, by `generate` and the launch.sh that it wrote."""
    folder = tmp_path_factory.mktemp("one host") / "my runs"  # blanks in a path are fine without ssh
    folder.mkdir()
    job = Job(folder, "one", None)
    generate = [sys.executable, "-m", "launch", "generate", str(job.run / "strategy.yaml")]
    subprocess.run(generate, cwd=PROJECT, check=True, timeout=120)
    job.start(env={"CUDA_VISIBLE_DEVICES": "9"})
    code, said = job.finish()
    assert code == 0, said
    return job


@pytest.fixture(autouse=True)
def _no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own options of ssh would reach the jobs."""
    for name in ("PDSH_SSH_ARGS_APPEND", "PDSH_SSH_ARGS", "DS_ENV_FILE", "LAUNCH_MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert "SWITCHYARD_PLAN" not in os.environ
