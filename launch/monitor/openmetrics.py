"""OpenMetrics text of a snapshot (https://prometheus.io/docs/specs/om/open_metrics_spec/), and its server."""

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from launch.monitor.snapshot import Snapshot, State
from launch.monitor.watch import RunWatch
from planner import Problem, StrategyError

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LOOPBACK = "127.0.0.1"
# Two scrapes within it get the same look.
_FRESH_S = 1.0

Labels = Mapping[str, object]
Sample = tuple[Labels, float | None]


def openmetrics(snapshot: Snapshot) -> str:
    """Every number of a snapshot that there is."""
    lines: list[str] = []
    for name, kind, text, samples in _families(snapshot):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [f"# TYPE {name} {kind}", f"# HELP {name} {text}"]
            suffix = {"info": "_info"}.get(kind, "")
            lines += [f"{name}{suffix}{_labels(labels)} {_value(value)}" for labels, value in known]
    return "\n".join([*lines, "# EOF", ""])


def _families(snapshot: Snapshot) -> Iterator[tuple[str, str, str, list[Sample]]]:
    """Name, type, help, samples."""
    run, last, speed = snapshot.run, snapshot.last, snapshot.throughput
    facts: dict[str, object] = {"run": run.name}
    if run.plan is not None:
        facts |= {"layout": run.plan.strategy.parallel.layout_name, "plan": run.plan.fingerprint}
    yield "switchyard_run", "info", "What is trained.", [(facts, 1.0)]
    states: list[Sample] = [
        ({"switchyard_run_state": state.value}, float(snapshot.state is state)) for state in State
    ]
    yield "switchyard_run_state", "stateset", "Whether it trains.", states

    def gauge(name: str, text: str, *samples: Sample) -> tuple[str, str, str, list[Sample]]:
        return f"switchyard_{name}", "gauge", text, list(samples)

    yield gauge("attempt", "Attempts so far.", ({}, float(snapshot.attempt)))
    yield gauge("alarms", "What somebody should look at.", ({}, float(len(snapshot.alarms))))
    planned = None if snapshot.num_steps is None else float(snapshot.num_steps)
    yield gauge("planned_steps", "Steps of the entire run.", ({}, planned))
    yield gauge("goodput_ratio", "Time of the steps that count over all time.", ({}, snapshot.goodput))
    if last is not None:
        loss = math.nan if last.is_loss_not_finite else last.loss
        yield gauge("step", "The last step.", ({}, float(last.step)))
        yield gauge("loss", "Cross-entropy of the last step, nats per token.", ({}, loss))
        yield gauge("validation_loss", "The last measured.", ({}, snapshot.validation_loss))
        yield gauge("gradient_norm", "Before clipping.", ({}, last.grad_norm))
        yield gauge("learning_rate", "Of the last step.", ({}, last.learning_rate))
        yield gauge(
            "expert_balance_ratio", "Mean over maximum of the ranks' expert tokens.", ({}, last.balance)
        )
        found: list[Sample] = [({"of": name}, value) for name, value in last.overload.items()]
        yield gauge("expert_overload_ratio", "Busiest expert of a layer over its mean, less 1.", *found)
    if speed is not None:
        yield gauge("step_seconds", "Median of the last steps.", ({}, speed.step_s))
        yield gauge("predicted_step_seconds", "By the planner.", ({}, speed.predicted_step_s))
        yield gauge("tokens_per_second", "Median of the last steps.", ({}, speed.tokens_per_s))
        yield gauge("mfu_ratio", "Model FLOPs over the peak of all ranks.", ({}, speed.mfu))
        phases: list[Sample] = [({"phase": name}, value) for name, value in speed.phases_s.items()]
        yield gauge("phase_seconds", "Of rank 0, median of the last steps.", *phases)
    if snapshot.experts is not None:
        dead, overloaded = len(snapshot.experts.dead), len(snapshot.experts.overloaded)
        yield gauge("dead_experts", "Experts with hardly a token.", ({}, float(dead)))
        yield gauge("overloaded_experts", "Experts above twice their share.", ({}, float(overloaded)))
    yield gauge("dropped_routes_ratio", "Dropped by dispatch: capacity.", ({}, snapshot.dropped_share))
    limits = snapshot.limits
    yield gauge("limit", "As the strategy asks.", *(({"limit": one.name}, one.limit) for one in limits))
    measured: list[Sample] = [({"limit": one.name}, one.measured) for one in limits]
    yield gauge("limit_measured", "What was measured.", *measured)
    met: list[Sample] = [
        ({"limit": one.name}, None if one.holds is None else float(one.holds)) for one in limits
    ]
    yield gauge("limit_met", "1 where the limit is met.", *met)
    if snapshot.slowest is not None:
        slow = snapshot.slowest
        rank = {"rank": slow.rank}
        yield gauge("slowest_rank_ratio", "Its own work over its stage's median.", (rank, slow.ratio))
        yield gauge("straggler", "1 after three slow windows.", (rank, float(slow.is_straggler)))
    yield from _of_ranks(snapshot, gauge)


def _of_ranks(snapshot: Snapshot, gauge: Any) -> Iterator[tuple[str, str, str, list[Sample]]]:
    found: dict[str, list[Sample]] = {}
    for view in snapshot.ranks:
        labels = {"rank": view.rank, "host": view.host or "", "stage": view.stage or ""}
        record, beat = view.record, view.heartbeat
        values: dict[str, float | None] = {
            "rank_up": None if beat is None else float(beat.state not in ("gone", "stopped")),
            "rank_silent_seconds": view.silent_s,
        }
        if record is not None:
            values |= {
                "rank_step": float(record.step),
                "rank_own_seconds": record.own_s,
                "rank_communication_ratio": record.communication_share,
                "rank_memory_bytes": record.memory_bytes,
                "rank_gpu_utilization_ratio": record.gpu.get("utilization"),
                "rank_gpu_power_watts": record.gpu.get("power_w"),
                "rank_gpu_temperature_celsius": record.gpu.get("temperature_c"),
            }
        for name, value in values.items():
            found.setdefault(name, []).append((labels, value))
    for name, samples in found.items():
        yield gauge(name, _RANK_HELP[name], *samples)


_RANK_HELP = {
    "rank_up": "1 while the process of the rank runs.",
    "rank_silent_seconds": "Since the rank began something new.",
    "rank_step": "Its last step.",
    "rank_own_seconds": "Of its last step, without waits for other ranks.",
    "rank_communication_ratio": "Share of its last step spent waiting for other ranks.",
    "rank_memory_bytes": "Of a CPU resident, of a GPU the peak allocated.",
    "rank_gpu_utilization_ratio": "By NVML: time in which any kernel ran.",
    "rank_gpu_power_watts": "By NVML.",
    "rank_gpu_temperature_celsius": "By NVML.",
}


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    texts = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return "{" + texts + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(float(value))


@contextmanager
def metrics_server(folder: Path, port: int) -> Iterator[str]:
    """Serves the metrics of a run at the address that it yields, on loopback, beside what the caller does.

    Raises:
        StrategyError: if the port cannot be taken.
    """
    watch, lock = RunWatch(folder), threading.Lock()
    kept: list[tuple[float, bytes]] = []

    def content() -> bytes:
        with lock:
            if not kept or time.monotonic() - kept[0][0] > _FRESH_S:
                kept[:] = [(time.monotonic(), openmetrics(watch.look()).encode())]
            return kept[0][1]

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/metrics"):
                self.send_error(404)
                return
            body = content()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are no news."""

    try:
        server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise StrategyError([_port_problem(port, error)]) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def _port_problem(port: int, error: Exception) -> Problem:
    return Problem(
        code="SW461",
        path="operate.metrics_port",
        found=f"port {port} on {LOOPBACK} cannot be taken: {getattr(error, 'strerror', None) or error}",
        expected="a free port, 1 to 65535; below 1024 only for root",
        fix="choose another one with --metrics PORT",
    )
