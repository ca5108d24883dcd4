"""The metrics: their format by Prometheus' own parser, their numbers, and the server on loopback."""

import math
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from launch.monitor.openmetrics import CONTENT_TYPE, metrics_server, openmetrics
from launch.monitor.watch import RunWatch
from planner import StrategyError
from tests.support import recorded_runs as runs
from tests.support.hostile import HOSTILE


def samples(folder: Path) -> dict[tuple[str, ...], float]:
    """Name and the values of the labels, to value."""
    text = openmetrics(RunWatch(folder).look())
    families = list(text_string_to_metric_families(text))
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_the_numbers_of_a_run(tmp_path: Path) -> None:
    found = samples(runs.finish(runs.write_run(tmp_path / "run", "limits={utilization_min: 0.4}")))
    assert found["switchyard_step",] == 40
    assert found["switchyard_planned_steps",] == 150
    assert found["switchyard_loss",] == pytest.approx(7.2)
    assert found["switchyard_tokens_per_second",] == 5000
    assert found["switchyard_goodput_ratio",] == pytest.approx(8 / 12)
    assert found["switchyard_phase_seconds", "compute"] == 0.1
    assert found["switchyard_expert_overload_ratio", "worst"] == 0.5
    assert found["switchyard_limit_measured", "utilization_min"] == pytest.approx(0.5)
    assert found["switchyard_limit_met", "utilization_min"] == 1
    assert found["switchyard_rank_memory_bytes", "3", "localhost", "all"] == 1e9
    states = {labels[0]: value for (name, *labels), value in found.items() if name == "switchyard_run_state"}
    assert [state for state, value in states.items() if value == 1] == ["done"]


def test_a_loss_that_is_not_finite_is_nan(tmp_path: Path) -> None:
    folder = runs.write_run(tmp_path / "run", num_steps=10)
    runs.write_lines(folder / "telemetry.jsonl", [runs.step_line(11, loss=None, not_finite={"loss": "nan"})])
    assert math.isnan(samples(folder)["switchyard_loss",])


def test_names_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" \\ name'
    (name,) = [key for key in samples(runs.write_run(folder)) if key[0] == "switchyard_run_info"]
    assert 'a "quoted" \\ name' in name


@pytest.mark.parametrize("name", [HOSTILE, "line\nbreak"])
def test_any_name_gives_text_that_parses(tmp_path: Path, name: str) -> None:
    assert samples(runs.write_run(tmp_path / name.replace("/", "")))["switchyard_step",] == 40


def test_a_folder_without_steps_has_metrics_too(tmp_path: Path) -> None:
    runs.write_strategy(tmp_path / "run")
    found = samples(tmp_path / "run")
    assert found["switchyard_run_state", "not started"] == 1
    assert ("switchyard_step",) not in found


def test_the_server_answers_on_loopback_alone(tmp_path: Path) -> None:
    folder = runs.finish(runs.write_run(tmp_path / "run"))
    port = free_port()
    with metrics_server(folder, port) as address:
        assert address == f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert list(text_string_to_metric_families(answer.read().decode()))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/secret", timeout=30)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)  # another address of this host
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_port_that_is_taken_is_one_problem(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StrategyError) as caught, metrics_server(tmp_path, port):
            pass
    (problem,) = caught.value.problems
    assert problem.code == "SW461"
    assert str(port) in problem.found


def test_the_port_of_the_strategy_is_served(tmp_path: Path) -> None:
    """By a monitor without a terminal, until it is interrupted."""
    port = free_port()
    folder = runs.finish(runs.write_run(tmp_path / "run", f"operate.metrics_port={port}"))
    command = [sys.executable, "-m", "launch", "monitor", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == f"serving http://127.0.0.1:{port}/metrics\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                assert b"switchyard_step 40.0" in answer.read()
        finally:
            process.terminate()
        assert process.stderr.read() == ""
