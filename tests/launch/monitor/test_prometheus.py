"""The metrics, scraped by a real Prometheus."""

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from launch.monitor.openmetrics import metrics_server
from tests.launch.monitor.test_openmetrics import free_port
from tests.support import recorded_runs as runs

pytestmark = pytest.mark.slow

CONFIGURATION = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: switchyard
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def test_prometheus_scrapes_a_run(tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("no prometheus here")
    folder = runs.finish(runs.write_run(tmp_path / "run", "limits.balance_min=0.9"))
    port, own_port = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(port=port))
    command = [
        prometheus,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own_port}",
    ]
    log = (tmp_path / "log").open("w")
    with (
        metrics_server(folder, port),
        log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while (found := ask(own_port, "switchyard_step")) == [] and time.monotonic() < deadline:
                time.sleep(0.5)
            assert [value for _, value in found] == ["40"], (tmp_path / "log").read_text()
            assert [value for _, value in ask(own_port, "up")] == ["1"]
            limits = {labels["limit"]: value for labels, value in ask(own_port, "switchyard_limit_met")}
            assert limits == {"balance_min": "0"}
            ranks = {labels["rank"] for labels, _ in ask(own_port, "switchyard_rank_own_seconds")}
            assert ranks == {"0", "1", "2", "3"}
        finally:
            process.terminate()


def ask(port: int, query: str) -> list[tuple[dict[str, str], str]]:
    """Labels and value of each series; none while Prometheus starts."""
    try:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={query}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return [(series["metric"], series["value"][1]) for series in result]
