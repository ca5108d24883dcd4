"""Job of a preflight: what counts as done, what a failure says, that it ends. Scripts replace launch.sh"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from launch.preflight import probe_job
from launch.preflight.probe_job import ProbeJobFailed, run_job
from launch.scripts.template import LaunchPaths

DONE = "echo '{\"pairs\": [1]}' >probe.json; echo '{\"attempt\": 1}' >done.json"


def run(folder: Path, body: str, told: list[str] | None = None) -> dict[str, Any]:
    script = f"#!/bin/bash\ncd {folder}\n{body}\n"
    paths = LaunchPaths(project=folder.parent, run=folder, python="python", ssh_config=None)
    heard = [] if told is None else told
    return asyncio.run(run_job({"launch.sh": script.encode()}, paths, folder, heard.append))


def test_what_rank_0_wrote_is_the_result_whatever_the_exit_code(tmp_path: Path) -> None:
    assert run(tmp_path / "job", f"{DONE}; exit 3") == {"pairs": [1]}


def test_progress_is_passed_on_line_by_line(tmp_path: Path) -> None:
    told: list[str] = []
    run(tmp_path / "job", f"echo one >>progress.txt; sleep 0.5; echo two >>progress.txt; {DONE}", told)
    assert told == ["one", "two"]


@pytest.mark.parametrize(
    "body",
    [
        "exit 0",  # DeepSpeed's runner ends so when its launcher was killed
        "echo '{\"pairs\": []}' >probe.json; exit 0",  # a result, but nobody said that all is done
        "echo '{' >probe.json; echo '{\"attempt\": 1}' >done.json",
    ],
)
def test_an_exit_code_of_0_alone_is_a_failure(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_job, "_VISIBLE_S", 0.1)
    with pytest.raises(ProbeJobFailed) as caught:
        run(tmp_path / "job", body)
    assert "exit code 0" in caught.value.found
    assert caught.value.found.endswith("before the first exchange")


def test_a_failure_says_where_and_what(tmp_path: Path) -> None:
    failed = '{"code": 3, "problems": [{"found": "[rank 1] the cable is out"}]}'
    with pytest.raises(ProbeJobFailed) as caught:
        run(
            tmp_path / "job", f"echo 'EP all-to-all, all' >progress.txt; echo '{failed}' >failed.json; exit 1"
        )
    assert caught.value.found.split("; ")[1:] == ["during EP all-to-all, all", "[rank 1] the cable is out"]


def test_without_a_reason_the_last_output_of_the_ranks_is_reported(tmp_path: Path) -> None:
    body = "mkdir logs; echo 'RuntimeError: no such interface' >logs/1_rank0.log; echo refused >&2; exit 2"
    with pytest.raises(ProbeJobFailed) as caught:
        run(tmp_path / "job", f"echo '{{}}' >failed.json; {body}")
    assert "1_rank0.log: RuntimeError: no such interface" in caught.value.found
    assert "launch.log: refused" in caught.value.found


def test_a_failure_names_no_file_that_is_removed_with_the_job(tmp_path: Path) -> None:
    job = tmp_path / "job"
    said = [
        f"launch.sh: 2 ranks on 2 hosts; log of rank 0: {job}/logs/1_rank0.log",
        "node2: SW608 /usr/bin/python3 on node2 cannot load yaml: No module named 'yaml'",
        f"launch.sh: SW434 run not done (launcher exit code 3); see failed.json in {job} and what the "
        "ranks said above, and logs/",
    ]
    body = "\n".join(f'echo "{line}" >&2' for line in said)
    with pytest.raises(ProbeJobFailed) as caught:
        run(job, f"{body}; exit 3")
    assert str(tmp_path) not in caught.value.found
    assert "node2: SW608 /usr/bin/python3 on node2 cannot load yaml" in caught.value.found
    assert "log of rank 0" not in caught.value.found
    assert caught.value.found.endswith("launch.sh: SW434 run not done (launcher exit code 3)")


def test_the_fix_of_a_problem_is_the_fix_of_the_check(tmp_path: Path) -> None:
    job = tmp_path / "job"
    problem = {
        "code": "SW609",
        "found": f"node2 cannot write the logs of its ranks to {job}/logs: read-only file system",
        "fix": f"make {job}/logs writable on node2, then start launch.sh again: the run resumes",
    }
    failed = json.dumps({"code": 2, "problems": [problem]})
    with pytest.raises(ProbeJobFailed) as caught:
        run(job, f"cat >failed.json <<'END'\n{failed}\nEND\nexit 2")
    assert caught.value.found.split("; ")[-1] == (
        "SW609 node2 cannot write the logs of its ranks to the folder of this job/logs: read-only file system"
    )
    assert caught.value.fix == (
        "make the folder of this job/logs writable on node2, then run preflight again"
    )


def test_a_job_without_end_is_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_job, "TIMEOUT_S", 0.6)
    with pytest.raises(ProbeJobFailed) as caught:
        run(tmp_path / "job", "trap 'echo {} >failed.json; touch asked; exit 130' TERM; sleep 3 & wait")
    assert "within 1 s" in caught.value.found
    assert (tmp_path / "job" / "asked").exists()


def test_a_job_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_job, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(probe_job, "_STOP_S", 0.5)
    began = time.monotonic()
    with pytest.raises(ProbeJobFailed):
        run(
            tmp_path / "job",
            "trap '' TERM; echo {} >failed.json; echo $$ >pid; while true; do sleep 0.1; done",
        )
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "job" / "pid").read_text()), 0)
