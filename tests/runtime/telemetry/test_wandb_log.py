"""The log of Weights & Biases, offline, and what keeps it from being opened."""

import importlib.util
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner import StrategyError, build_plan, loads
from runtime.startup.open_run import open_run
from runtime.telemetry.records import Telemetry
from runtime.telemetry.wandb_log import WandbLog, find_wandb_problems, logged_config, run_id
from tests.runtime.startup.test_resume import STRATEGY
from tests.runtime.telemetry.test_records import step_line
from tests.support.launching import Launch

PLAN = build_plan(loads(STRATEGY, ["operate.wandb=moe"]))


@pytest.mark.slow  # W&B takes seconds to open and to close a log
def test_an_offline_log_has_the_steps_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, the second of which trains a step again: the log goes on, and does not begin again."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for attempt, steps in ((1, (1, 2, 3)), (2, (3, 4))):
        telemetry = Telemetry(tmp_path, 0, attempt=attempt, wandb=WandbLog(PLAN, tmp_path, attempt=attempt))
        for step in steps:
            telemetry.append_step(step_line(step, loss=6.0 + attempt))
        telemetry.close()
        time.sleep(1.1)  # W&B names the folder of an offline log by the second
    logged, ids = read_logs(tmp_path, PLAN.strategy.name, "step", "loss/train", "attempt")
    assert logged == [(1, 7.0, 1), (2, 7.0, 1), (3, 7.0, 1), (3, 8.0, 2), (4, 8.0, 2)]
    assert ids == {run_id(tmp_path)}


@pytest.mark.slow  # a launch
def test_a_launch_leaves_an_offline_log_of_rank_0(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    code, output = launch.train("operate.wandb=moe", env={"WANDB_MODE": "offline"})
    assert code == 0, output
    assert "Traceback" not in output
    assert "SW967" not in output
    logged, ids = read_logs(launch.run, "smoke", "step", "loss/train", "attempt")
    assert logged == [(line["step"], line["loss"], 1) for line in launch.lines()]
    assert len(logged) == 12
    assert ids == {run_id(launch.run)}
    assert len(list(launch.run.glob("wandb/offline-run-*"))) == 1, "rank 0's alone"


def read_logs(folder: Path, name: str, *keys: str) -> tuple[list[tuple[object, ...]], set[str]]:
    """Offline logs in the folder of a run: these values of all steps, sorted; the ids of the logs.

    `name`: of the run.
    """
    from wandb.proto import wandb_internal_pb2

    logged, ids = [], set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records_of(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                assert (record.run.project, record.run.display_name) == ("moe", name)
            if record.HasField("history"):
                items = {".".join(item.nested_key) or item.key: item for item in record.history.item}
                logged.append(tuple(json.loads(items[key].value_json) for key in keys))
    return sorted(logged), ids


def records_of(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes (github.com/google/leveldb,
    doc/log_format.md): blocks of 32 KiB, in them checksum, length and type of each piece of a record."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # complete, or the last piece
            yield parts
            parts = b""


def test_nothing_is_wrong_without_the_key() -> None:
    assert find_wandb_problems(loads(STRATEGY), {}) == []


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = find_wandb_problems(PLAN.strategy, {})
    assert (problem.code, problem.path) == ("SW906", "operate.wandb")


@pytest.mark.parametrize(
    ("environment", "codes"),
    [
        ({}, ["SW907"]),
        ({"WANDB_MODE": "offline"}, []),
        ({"WANDB_API_KEY": "k"}, []),
        ({"NETRC": "netrc"}, []),
        ({"NETRC": "netrc", "WANDB_BASE_URL": "https://wandb.example.com"}, ["SW907"]),
        ({"NETRC": "damaged"}, ["SW907"]),
    ],
)
def test_without_a_login_it_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], codes: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    (tmp_path / "damaged").write_text("machine\n")
    assert [problem.code for problem in find_wandb_problems(PLAN.strategy, environment)] == codes


def test_nothing_of_the_site_leaves_it() -> None:
    plan = build_plan(loads(STRATEGY, ["operate.wandb=moe", "launch.environment={TOKEN: s3cret}"]))
    config = logged_config(plan)
    assert config["plan"] == plan.fingerprint
    assert config["model"]["num_experts"] == plan.strategy.model.num_experts
    assert "s3cret" not in repr(config)


def test_rank_0_refuses_it_before_it_claims_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("runtime.startup.open_run.find_wandb_problems", lambda s: find_wandb_problems(s, {}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    context = SimpleNamespace(plan=PLAN, folder=tmp_path / "run", takes_over=False)
    with pytest.raises(StrategyError) as caught:
        open_run(context)  # type: ignore[arg-type]
    assert [problem.code for problem in caught.value.problems] == ["SW907"]
    assert not (tmp_path / "run" / "attempts").exists()


def test_a_run_that_begins_again_has_another_log(tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    claim = tmp_path / "attempts" / "0001.json"
    claim.write_text('{"pid": 1}')
    first = run_id(tmp_path)
    (tmp_path / "attempts" / "0002.json").write_text('{"pid": 2}')
    assert run_id(tmp_path) == first
    claim.write_text('{"pid": 3}')
    assert run_id(tmp_path) != first
