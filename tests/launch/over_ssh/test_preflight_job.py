"""Preflight whole, over real ssh: hosts asked, ranks started by DeepSpeed, links measured, nothing left."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.__main__ import main
from tests.support.hosts import LoopbackHosts
from tests.support.processes import processes_that_name

ROOT = Path(__file__).parents[3]
ONE_RANK = ("parallel.ep=1", "parallel.tp=1")  # a stage


def arguments(hosts: LoopbackHosts, runs: Path, *more: str) -> list[str]:
    return [
        "preflight",
        "ds_configs/tiny_cpu.yaml",
        f"launch.ssh_config={hosts.ssh_config}",
        f"output.folder={runs}",
        "cluster.gpus_per_host=1",
        # Slow enough for any machine: how fast this one is, is not what is tested.
        "cluster.links={intra_host: 1 kB/s, inter_host: 1 kB/s}",
        *more,
    ]


def test_stages_on_two_hosts_exchange_and_the_planner_gets_what_they_measured(
    hosts: LoopbackHosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    overrides = arguments(hosts, runs, "parallel.pp=2", *ONE_RANK, "cluster.hosts=[node3, node1]")[2:]
    code = main(["preflight", "ds_configs/tiny_cpu.yaml", *overrides, "--json"])
    captured = capsys.readouterr()
    answer: dict[str, Any] = json.loads(captured.out)
    assert (code, answer["ready"], answer["job"]["ran"]) == (0, True, True), answer["checks"]
    assert [(e["name"], e["stage"]) for e in answer["exchanges"]] == [("stage P2P", "layers-0 → layers-1")]
    assert all(e["measured_s"] > 0 for e in answer["exchanges"])
    # Rank 0 is on the host that is first in the strategy.
    (link,) = answer["links"]
    assert (link["hosts"], link["ranks"]) == (["node3", "node1"], [0, 1])
    told = captured.err.splitlines()
    assert "preflight: 2 of 2 hosts asked" in told
    assert told.index("preflight: starting the ranks") < told.index(
        "preflight: stage P2P, layers-0 → layers-1"
    )
    assert [path.name for path in runs.iterdir()] == ["hardware.yaml"]
    assert processes_that_name(runs) == []
    assert main(["plan", "ds_configs/tiny_cpu.yaml", *overrides, "--json"]) == 0
    assumed = json.loads(capsys.readouterr().out)["prediction"]["assumptions"]
    rate = next(line for line in assumed if line.startswith("links per rank, one way, as measured: "))
    ways = [link[way] / 1e9 for way in ("there_bytes_per_s", "back_bytes_per_s")]
    assert 0.99 * min(ways) < float(rate.split(": ")[1].split(" GB/s")[0]) < 1.01 * max(ways)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_ranks_run_leaves_nothing_on_any_host(
    hosts: LoopbackHosts, tmp_path: Path, number: signal.Signals
) -> None:
    runs = tmp_path / "runs"
    two = ("parallel={ep: 2}", "cluster.hosts=[node1, node2]")
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *arguments(hosts, runs, *two)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while len([p for p in processes_that_name(runs) if is_rank(p)]) < 2:
            assert time.monotonic() < deadline, "the ranks were not started"
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(number)
        out, told = process.communicate(timeout=120)
        deadline = time.monotonic() + 120
        while number == signal.SIGKILL and processes_that_name(runs) and time.monotonic() < deadline:
            time.sleep(0.1)  # the ranks learn of it behind preflight's back
    finally:
        left = [p for p in processes_that_name(runs) if p.pid != process.pid]
        for one in left:
            one.kill()
        process.kill()
    assert left == []
    if number == signal.SIGINT:
        assert (process.returncode, out) == (130, ""), told
        assert not runs.exists()


@pytest.mark.slow
def test_a_module_that_does_not_load_on_one_host_is_told_as_it_was_said_there(
    hosts: LoopbackHosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is there, so that asking for it finds nothing wrong; the plan's ranks try."""
    broken = tmp_path / "modules" / "matplotlib.py"
    broken.parent.mkdir()
    broken.write_text(
        "raise ImportError('libpng16.so.16: cannot open shared object file', name='matplotlib')"
    )
    change = f"SSH_ORIGINAL_COMMAND=${{SSH_ORIGINAL_COMMAND/PYTHONPATH=/PYTHONPATH={broken.parent}:}}\n"
    hosts.hook("node2", change)
    two = ("parallel={ep: 2}", "cluster.hosts=[node1, node2]")
    code = main([*arguments(hosts, tmp_path / "runs", *two), "--json"])
    answer = json.loads(capsys.readouterr().out)
    (check,) = (check for check in answer["checks"] if check["verdict"] == "fails")
    assert (code, check["name"]) == (1, "exchanges")
    assert "SW608 " in check["found"]
    assert "cannot load matplotlib: libpng16.so.16: cannot open shared object file" in check["found"]
    assert ".preflight-" not in check["found"] + check["fix"]
    assert not (tmp_path / "runs").exists()
    assert processes_that_name(tmp_path / "runs") == []


def is_rank(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "runtime.probe" in words and not any(word.startswith("deepspeed.launcher") for word in words)
