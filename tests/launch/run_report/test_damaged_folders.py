"""Whatever the files of a run contain, monitor and report show what they can and raise nothing."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.monitor.openmetrics import openmetrics
from launch.monitor.view import heading, snapshot_dict, tables
from launch.monitor.watch import RunWatch
from launch.run_report.page import report_page
from tests.support import recorded_runs as runs
from tests.support.fuzz import cases, changed_json, damaged, quick_and_slow

CLAIM = {"attempt": 2, "pid": 1, "host": "node-a", "machine": "elsewhere", "started": runs.BEGAN}
BEAT = {
    "pid": 1,
    "attempt": 1,
    "phase": "step",
    "step": 4,
    "beats": 7,
    "state": "sleeping",
    "waits_in": {"group": "data", "operation": "all_reduce", "number": 1},
}
ENTRY = {"time": runs.BEGAN, "event": "start", "text": "attempt 1", "hosts": ["node-a"]}
HOST = {
    "step": 5,
    "ranks": [1, 2],
    "phases_s": {name: [seconds] * 2 for name, seconds in runs.phases().items()},
    "memory_bytes": [1, 2],
    "gpu": [None, {"utilization": 0.5}],
    "attempt": 1,
}
EXPERTS = {"step": 5, "tokens": runs.even_experts(5), "attempt": 1}
# A file, what is in it, and whether that is a line after others.
FILES: dict[str, tuple[Any, bool]] = {
    "telemetry.jsonl": (runs.step_line(5, overload={"mean": 0.25, "worst": 0.5, "cumulative": 0.1}), True),
    "experts.jsonl": (EXPERTS, True),
    "ranks/rank-0001.jsonl": (runs.rank_line(5), True),
    "ranks/host-node-b.jsonl": (HOST, True),
    "journal.jsonl": (ENTRY, True),
    "attempts/0002.json": (CLAIM, False),
    "heartbeats/node-a.json": ({"0": BEAT, "1": BEAT}, False),
    "failed.json": ({"attempt": 1, "code": 3, "problems": [{"found": "x"}], "checkpoint": 4}, False),
    "timeline.json": (runs.trace(), False),
}


@pytest.mark.parametrize("number", quick_and_slow(4, 200))
@pytest.mark.parametrize("name", FILES)
def test_any_content_is_shown_or_left_out(tmp_path: Path, name: str, number: int) -> None:
    content, is_line = FILES[name]
    folder = runs.write_run(tmp_path / "run", "limits.balance_min=0.5", num_steps=4)
    (folder / "timeline.json").write_text(json.dumps(runs.trace()))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if is_line and path.exists() else b""
    plan = RunWatch(folder).look().run  # read once: it takes longer than the rest

    @cases(number)
    @given(
        st.one_of(
            damaged(json.dumps(content).encode()),
            changed_json(copy.deepcopy(content)).map(lambda value: json.dumps(value).encode()),
        )
    )
    def holds(changed: bytes) -> None:
        path.write_bytes(before + changed + (b"\n" if is_line else b""))
        watch = RunWatch(folder)
        watch._description = (None, plan)
        snapshot = watch.look()
        assert heading(snapshot)
        tables(snapshot)
        json.dumps(snapshot_dict(snapshot), allow_nan=False)
        openmetrics(snapshot)
        HTMLParser().feed(report_page([folder]))

    holds()
