"""`python -m launch drill --on-cluster`: the strategy's own hosts, here two with a rank each and a spare."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.drill.processes import processes_of
from planner.paths import PROJECT
from tests.support.hosts import LoopbackHosts, start_or_skip
from tests.support.launching import STRATEGY

KINDS = ("sigstop", "exception", "corrupt-checkpoint", "supervisor-killed")


def written(folder: Path, hosts: str) -> Path:
    text = folder / "text.txt"
    text.write_text("".join(f"The {n}th wagon goes to track {n * n % 13}.\n" for n in range(3000)))
    strategy = folder / "smoke.yaml"
    content = STRATEGY.format(text=text, runs=folder / "runs")
    strategy.write_text(content.replace("{hosts: 1, gpus_per_host: 4", f"{{hosts: {hosts}, gpus_per_host: 1"))
    return strategy


@pytest.mark.parametrize("words", [("--hours", "1"), ("--kind", "cut-network"), ("--kind", "too-few-spares")])
def test_what_needs_hosts_or_cores_of_its_own_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    strategy = written(tmp_path, "[a, b]")
    assert main(["drill", str(strategy), "--on-cluster", *words]) == 2
    assert f"SW470 {words[-1] if words[0] == '--kind' else words[0]} is not" in capsys.readouterr().err


def test_hosts_without_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", str(written(tmp_path, "2")), "--on-cluster"]) == 2
    assert "SW453" in capsys.readouterr().err


@pytest.mark.slow
def test_on_the_strategy_s_hosts_only_the_drill_s_ranks_are_broken(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    hosts = LoopbackHosts(tmp_path / "hosts")
    start_or_skip(hosts)
    strategy = written(tmp_path, "[node1, node2, node3], spare_hosts: 1")
    try:
        kinds = [word for kind in KINDS for word in ("--kind", kind)]
        words = [*kinds, f"launch.ssh_config={hosts.ssh_config}", "launch.timeout=60 s"]
        done = subprocess.run(
            [sys.executable, "-m", "launch", "drill", str(strategy), "--on-cluster", "--json", *words],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        hosts.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["layout"] == "EP2_TP1_PP1_DP1"
    drills = {found["name"]: found for found in answer["drills"]}
    assert drills.keys() == {*KINDS}
    assert [name for name, found in drills.items() if found["faults"]] == []
    assert drills["sigstop"]["told"].startswith("a hang: rank 0 has begun nothing new for")
    assert not list((tmp_path / "runs").iterdir()), "its folder is removed"
    assert not processes_of(tmp_path / "runs")
