"""`python -m launch run` over ssh: the host of a flipped bit is replaced, and the curve is the same."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.hosts import LoopbackHosts
from tests.support.launching import Launch

HOSTS = "hosts: [node1, node2, node3], spare_hosts: 1, gpus_per_host: 2"
# `python -m launch run`, whose ranks run another program than train.py.
SUPERVISE = """
import sys
from launch.drill import supervised
supervised.PROGRAM = ("tests/support/flipped_train.py",)
sys.exit(supervised.main(sys.argv[1]))
"""


@pytest.mark.slow  # two attempts on hosts behind ssh, and an unbroken run
def test_a_spare_takes_the_place_of_the_host_whose_bit_flipped(
    loopback: LoopbackHosts, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    launch, mark = Launch(tmp_path), tmp_path / "mark"
    text = (
        launch.strategy.read_text()
        .replace("hosts: 1, gpus_per_host: 4", HOSTS)
        .replace("ep: 2", "ep: 2, dp: 2")
    )
    text += (
        "runtime: {check_replicas_every: 1, on_corruption: replace}\n"
        f"launch: {{ssh_config: {loopback.ssh_config}, environment: {{FLIPPED_MARK: {mark}}}}}\n"
    )
    launch.strategy.write_text(text)
    code, output = launch.run_command(sys.executable, "-c", SUPERVISE, str(launch.strategy), timeout=420)
    assert code == 0, output
    assert mark.exists()
    # Rank 1 is on node1: three of four copies are believed, and the host of the fourth leaves.
    assert output.count("SW902 step 5: copies differ: weight model.norm.weight of rank 1 on node1 ") == 1
    entries = [json.loads(line) for line in (launch.run / "journal.jsonl").read_text().splitlines()]
    assert [entry["hosts"] for entry in entries if entry["event"] == "start"] == [
        ["node1", "node2"],
        ["node3", "node2"],
    ]
    assert [entry["text"] for entry in entries if "silent corruption" in entry["text"]]
    assert launch.read("done.json")["step"] == 12

    unbroken = Launch(tmp_path_factory.mktemp("unbroken"))
    code, output = unbroken.train("parallel.dp=2", ranks=4)
    assert code == 0, output
    assert launch.losses() == unbroken.losses()
