"""A host behind a slow link is named: ranks in namespaces of their own, one of them held to 100 Mbit/s."""

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from launch.preflight.link_checks import link_checks
from planner import Plan, build_plan, load

CLONE_NEWNET = 0x40000000
PLAN = (
    "parallel={ep: 4}",
    "training.micro_batch=6",
    "model.num_hidden_layers=1",
    "model.num_experts=4",
    "cluster.hosts=[a, b, c, d]",
    "cluster.gpus_per_host=1",
    "cluster.links={intra_host: 1 kB/s, inter_host: 1 kB/s}",
)
SLOW = 2
LIMIT = "tbf rate 100mbit burst 64kb latency 2s"


@pytest.fixture(autouse=True)
def _possible() -> None:
    command = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", *LIMIT.split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"network namespaces and tc: {error}")
    if done.returncode != 0:
        pytest.skip(f"network namespaces and tc: {done.stderr.strip()}")


@pytest.mark.slow
def test_a_host_behind_a_slow_link_is_named(tmp_path: Path) -> None:
    import torch.distributed  # noqa: F401 - once, before the ranks are forked

    from runtime.probe import result_of

    plan = build_plan(load("ds_configs/tiny_cpu.yaml", PLAN))
    pid = _forked(lambda: _hosts(plan, tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    checks = link_checks(plan, result_of(plan, found, "cpu"))
    slow = {check.host: check.found for check in checks if check.name == "slow hosts"}
    assert set(slow) == {"c"}, checks
    assert "times as long to or from this host" in slow["c"]
    assert [check.verdict for check in checks if check.name == "values"] == ["passes"]


def _hosts(plan: Plan, folder: Path) -> None:
    """The machine room: a bridge, and a namespace with a cable to it for each rank. All of it ends here."""
    _new_network()
    _run("ip link add br0 type bridge")
    _run("ip link set br0 up")
    ranks = []
    for rank in range(plan.world_size):
        reader, writer = os.pipe()
        pid = _forked(lambda rank=rank, reader=reader: _rank(plan, rank, reader, folder))
        ranks.append(pid)
        _wait_for(folder / f"{rank}.ready")
        _run(f"ip link add v{rank} type veth peer name eth0 netns {pid}")
        _run(f"ip link set v{rank} master br0 up")
        if rank == SLOW:
            _run(f"tc qdisc add dev v{rank} root {LIMIT}")
        os.write(writer, b"go")
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks] == [0] * len(ranks)


def _rank(plan: Plan, rank: int, cable: int, folder: Path) -> None:
    import torch
    import torch.distributed as dist

    from runtime import probe
    from runtime.parallel.groups import make_groups

    _new_network()
    (folder / f"{rank}.ready").touch()
    os.read(cable, 2)
    _run("ip link set lo up")
    _run(f"ip addr add 10.77.3.{rank + 1}/24 dev eth0")
    _run("ip link set eth0 up")
    if rank == SLOW:
        _run(f"tc qdisc add dev eth0 root {LIMIT}")
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    torch.set_num_threads(1)
    probe.EXCHANGES_S = probe.PAIRS_S = 0.2
    probe.MIN_PAIR_BYTES = 2**20
    store = dist.FileStore(str(folder / "store"), plan.world_size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=plan.world_size, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {"rank": rank, "host": "h"}
    found |= probe.measure(plan, make_groups(plan, rank), torch.device("cpu")) or {}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def _forked(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _end(work)
    return pid


def _end(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _new_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.02)
