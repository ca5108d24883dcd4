"""`python -m launch run` over ssh: a spare takes the place of a lost host, and the curve is the same."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from planner.heartbeats import read_heartbeats
from tests.support.hosts import LoopbackHosts
from tests.support.launching import Launch

STEPS = "training.steps=60"


@pytest.mark.slow
def test_a_spare_takes_the_place_of_a_lost_host(
    loopback: LoopbackHosts, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    launch = Launch(tmp_path)
    cluster = ("cluster.hosts=[node1, node2, node3]", "cluster.spare_hosts=1", "cluster.gpus_per_host=1")
    command = [sys.executable, "-m", "launch", "run", str(launch.strategy), STEPS, *cluster]
    launch.start_command([*command, f"launch.ssh_config={loopback.ssh_config}"])
    try:
        launch.wait_for_step(5, timeout=240)
        loopback.hook("node2", "exit 1\n")  # it takes no command any more
        psutil.Process(read_heartbeats(launch.run)[1].pid).kill()
        code, output = launch.finish(240)
    finally:
        loopback.clear_hooks()
        for process in launch.processes():
            process.kill()
    assert code == 0, output
    entries = [json.loads(line) for line in (launch.run / "journal.jsonl").read_text().splitlines()]
    assert [entry["hosts"] for entry in entries if entry["event"] == "start"] == [
        ["node1", "node2"],
        ["node1", "node3"],
    ]
    assert any("a host was lost" in entry["text"] for entry in entries)
    assert any("node2 could not be reached: ranks" in entry["text"] for entry in entries)

    unbroken = Launch(tmp_path_factory.mktemp("unbroken"))
    code, output = unbroken.train(STEPS)
    assert code == 0, output
    assert launch.losses() == unbroken.losses()
