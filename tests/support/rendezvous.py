"""Launches over ssh whose ranks cannot meet, each for a reason of its own. Prints how each ended.

Run inside an outer namespace: node1 has a second address, in a network of its own, that node2 cannot reach.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.jobs import Job, until
from tests.support.namespaces import NamespaceHosts

TIMEOUT_S = 20
OVERRIDES = (
    "cluster.hosts=[node1, node2]",
    "cluster.gpus_per_host=1",
    "parallel={ep: 2, zero_stage: 1}",
    f"launch.timeout={TIMEOUT_S} s",
)
# On node1: its other addresses; what answers from the first of them is lost on the way, as behind a firewall.
NETWORK = (
    "ip addr add 10.88.0.1/32 dev lo; ip addr add 10.99.0.1/32 dev lo; "
    "ip rule add from 10.88.0.1 lookup 88; ip route add blackhole default table 88"
)
ROUTE = "ip route add 10.88.0.0/24 via 10.77.0.1"  # on node2; there is none to 10.99.0.0
LISTEN = (
    "import socket, time; s = socket.create_server(('', 29510)); print('ready', flush=True); time.sleep(3600)"
)


def main(folder: Path) -> None:
    hosts = NamespaceHosts(folder, 2)
    on(hosts, "node1", NETWORK)
    on(hosts, "node2", ROUTE)
    taken = subprocess.Popen(
        ["ssh", "-F", str(hosts.ssh_config), "node1", f'{sys.executable} -c "{LISTEN}"'],
        stdout=subprocess.PIPE,
    )
    assert taken.stdout is not None
    assert taken.stdout.readline() == b"ready\n"
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "taken port": lambda: launch(hosts, folder, "taken", port=29510),
        "unknown name": lambda: launch(hosts, folder, "name", address="nosuch.invalid"),
        "other interface": lambda: launch(hosts, folder, "interface", address="10.99.0.1"),
        "firewall": lambda: launch(hosts, folder, "firewall", address="10.88.0.1"),
        "a peer that never came": lambda: launch(hosts, folder, "peer", stops_rank_1=True),
    }
    seen = {name: case() for name, case in cases.items()}
    taken.kill()
    print(json.dumps(seen))


def on(hosts: NamespaceHosts, name: str, shell: str) -> None:
    subprocess.run(["ssh", "-F", str(hosts.ssh_config), name, shell], check=True)


def launch(
    hosts: NamespaceHosts,
    folder: Path,
    name: str,
    *,
    port: int = 29520,
    address: str | None = None,
    stops_rank_1: bool = False,
) -> dict[str, Any]:
    """How it ended: seconds since the ranks were started, the terminal, failed.json, what is left."""
    job = Job(folder, name, hosts.ssh_config, *OVERRIDES)
    command = [str(job.run / "launch.sh"), str(port)]
    job.start_command(command, cwd=job.run, env={} if address is None else {"LAUNCH_MASTER_ADDR": address})
    until(lambda: len(job.of("train.py")) == 2, 120, job.alive)
    began = time.monotonic()
    if stops_rank_1:
        next(rank for rank in job.of("train.py") if has_rank_1(rank)).suspend()
    code, _ = job.finish()
    return {
        "code": code,
        "seconds": time.monotonic() - began,
        "terminal": job.output.read_text(),
        "failed": job.read("failed.json") if (job.run / "failed.json").exists() else None,
        "left": [process.cmdline() for process in job.processes()],
    }


def has_rank_1(process: psutil.Process) -> bool:
    return process.environ().get("RANK") == "1"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
