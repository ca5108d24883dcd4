"""`run` and `cordon` as commands: what they refuse, what the hook gets, how an end is printed."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.supervisor import supervise as supervise_module
from launch.supervisor.cordon import read_cordoned
from planner import load
from tests.launch.monitor.test_openmetrics import free_port
from tests.launch.supervisor.test_supervise import PLAYER, STRATEGY

SCRAPE = (
    'import urllib.request as r; open("{file}", "ab").write('
    'r.urlopen("http://127.0.0.1:{port}/metrics", timeout=20).read())'
)


@pytest.fixture
def strategy(tmp_path: Path) -> Path:
    path = tmp_path / "play.yaml"
    path.write_text(STRATEGY.format(runs=tmp_path / "runs"))
    return path


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose attempts a script plays."""
    run = tmp_path / "runs" / "play"
    run.mkdir(parents=True)
    text = PLAYER.format(python=sys.executable, run=str(run))
    monkeypatch.setattr(supervise_module, "launch_files", lambda *_: {"launch.sh": text.encode()})
    monkeypatch.setattr(supervise_module, "unreachable", lambda *_: ())
    return run


def scenes(run: Path, *codes: int) -> None:
    (run / "scenes.json").write_text(json.dumps([{"code": code} for code in codes]))


def test_it_tells_each_decision_and_ends_with_the_run_s_code(
    strategy: Path, plays: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenes(plays, 130, 0)
    assert main(["run", str(strategy)]) == 0
    told = capfd.readouterr().err
    assert "attempt 1 of EP4_TP1_PP1_DP1 on a, b" in told
    assert "attempt 2 of EP4_TP1_PP1_DP1 on a, b" in told
    assert told.rstrip().endswith(": done")


def test_json_is_one_object_on_stdout(strategy: Path, plays: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scenes(plays, 1)
    assert main(["run", str(strategy), "--json"]) == 1
    answer = json.loads(capfd.readouterr().out)
    assert (answer["code"], answer["folder"]) == (1, str(plays))


def test_the_hook_gets_each_event(strategy: Path, plays: Path, tmp_path: Path) -> None:
    scenes(plays, 0)
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{tmp_path}/told\ncat >>{tmp_path}/entries\n')
    hook.chmod(0o755)
    assert main(["run", str(strategy), f"operate.hook=[{hook}, --channel]"]) == 0
    assert (tmp_path / "told").read_text().startswith("--channel|start|attempt 1 of ")
    assert '"event": "end"' in (tmp_path / "entries").read_text()


def test_it_serves_metrics_while_it_supervises(
    strategy: Path, plays: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenes(plays, 0)
    port = free_port()
    hook = tmp_path / "hook"  # called while the supervisor runs
    hook.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c '{SCRAPE.format(port=port, file=tmp_path / 'seen')}'\n"
    )
    hook.chmod(0o755)
    assert main(["run", str(strategy), f"operate.metrics_port={port}", f"operate.hook=[{hook}]"]) == 0
    assert f"serving http://127.0.0.1:{port}/metrics" in capfd.readouterr().err
    assert "switchyard_run_state" in (tmp_path / "seen").read_text()


def test_a_taken_port_ends_it_before_the_first_attempt(
    strategy: Path, plays: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["run", str(strategy), f"operate.metrics_port={port}"]) == 2
    told = capfd.readouterr().err
    assert "SW461" in told
    assert "attempt 1" not in told


def test_a_hook_that_fails_ends_no_run(
    strategy: Path, plays: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenes(plays, 0)
    assert main(["run", str(strategy), "operate.hook=[/bin/false]"]) == 0
    assert "warning: SW455 operate.hook failed" in capfd.readouterr().err


def test_made_up_hosts_are_refused(strategy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(strategy), "cluster.hosts=3"]) == 2
    assert "SW453" in capfd.readouterr().err


def test_fresh_moves_an_old_run_aside(strategy: Path, plays: Path, tmp_path: Path) -> None:
    scenes(plays, 0)
    old = plays / "scenes.json"
    content = old.read_bytes()
    # The player needs its scenes in the new folder; nothing else of the old run is there.
    subprocess.run([sys.executable, "-m", "runtime.attempts", "set-aside", str(plays)], check=True)
    plays.mkdir()
    (plays / "marker").touch()
    assert main(["run", str(strategy), "--fresh"]) == 3  # no scenes: the player fails, twice
    assert not (plays / "marker").exists()
    assert (tmp_path / "runs" / "play.002" / "marker").exists()
    assert (tmp_path / "runs" / "play.001" / "scenes.json").read_bytes() == content


def test_cordon_and_undo(strategy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(load(str(strategy)).output.folder)
    assert main(["cordon", str(strategy), "b", "a"]) == 0
    assert read_cordoned(folder) == ("a", "b")
    assert main(["cordon", str(strategy), "b", "--undo"]) == 0
    assert read_cordoned(folder) == ("a",)
    assert main(["cordon", str(strategy)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "cordoned: a"
    assert main(["cordon", str(strategy), "x"]) == 2
    assert "SW454" in capfd.readouterr().err
