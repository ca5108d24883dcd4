"""What is shown of DeepSpeed's launcher, and what counts as the reason for its failure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.launcher_output import LauncherOutput
from planner.paths import PROJECT
from tests.support.hostile import CONTROLS, ESCAPED, HOSTILE

# As DeepSpeed 0.19.8 and pdsh 2.34 print it.
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/venv/bin/deepspeed", line 6, in <module>',
    "    main()",
    '  File "/venv/site-packages/deepspeed/launcher/runner.py", line 341, in parse_resource_filter',
    "    raise ValueError(f\"No slot '{slot}' specified on host '{hostname}'\")",
    "ValueError: No slot '1' specified on host 'localhost'",
]
CPP = [
    "[rank 0] RuntimeError: cannot connect",
    "Exception raised from waitForInput at /pytorch/torch/csrc/distributed/c10d/TCPStore.cpp:1 (most",
    "frame #0: c10::Error::Error(...) + 0x98 (0x7f libc10.so)",
    "frame #1: <unknown function> + 0x5f (0x7f libtorch_cpu.so)",
]
ENDED = "pdsh@head: {}: ssh exited with exit code {}"


def shown(folder: Path, *lines: str, hosts: str = "", is_debugged: bool = False) -> list[str]:
    output = LauncherOutput(
        folder=folder, hosts=tuple(hosts.split(",")) if hosts else (), is_debugged=is_debugged
    )
    return [*(line for given in lines for line in output.take(given)), *output.end()]


def noted(folder: Path, name: str) -> dict[str, str]:
    return json.loads((folder / name).read_text())


def test_a_traceback_of_deepspeed_is_a_problem(tmp_path: Path) -> None:
    said = "\n".join(shown(tmp_path, "before", *TRACEBACK, "after"))
    assert "Traceback" not in said
    assert "parse_resource_filter" not in said
    assert said.startswith("before\nSW446 a program that starts the ranks failed: ValueError: No slot '1' ")
    assert "(runner.py:341)\n  expected: " in said
    assert said.endswith("after")
    assert noted(tmp_path, "reason")["code"] == "SW446"


def test_with_debug_everything_is_shown(tmp_path: Path) -> None:
    said = shown(tmp_path, *TRACEBACK, *CPP, is_debugged=True)
    assert said[: len(TRACEBACK)] == TRACEBACK
    assert set(CPP) <= set(said)


def test_a_cpp_stack_is_not_shown(tmp_path: Path) -> None:
    assert shown(tmp_path, *CPP, "next") == [CPP[0], "next"]


def test_the_tracebacks_of_two_hosts_may_be_mixed(tmp_path: Path) -> None:
    mixed = [f"{host}: {line}" for line in TRACEBACK for host in ("node1", "node2")]
    said = "\n".join(shown(tmp_path, *mixed, hosts="node1,node2"))
    assert said.count("SW446 a program that starts the ranks on node1 failed: ValueError") == 1
    assert said.count("SW446 a program that starts the ranks on node2 failed: ValueError") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            [*(f"node2: {line}" for line in TRACEBACK), ENDED.format("node2", 1)],
            "the ranks of node2 ended with exit code 1: ValueError: No slot '1' specified on host "
            "'localhost' (runner.py:341)",
        ),
        (
            [
                "node2: SW609 output.folder: node2 cannot write",
                "node2:   expected: x",
                ENDED.format("node2", 2),
            ],
            "the ranks of node2 ended with exit code 2: SW609 output.folder: node2 cannot write",
        ),
        (
            ["node2: bash: python: command not found", ENDED.format("node2", 127)],
            "the ranks of node2 ended with exit code 127: bash: python: command not found",
        ),
        (
            ["node2: Connection to 10.0.0.2 closed.", ENDED.format("node2", 255)],
            "the connection to node2 was lost, or its ssh failed: Connection to 10.0.0.2 closed.",
        ),
        ([ENDED.format("node2", 137)], "the ranks of node2 ended with exit code 137 and said nothing"),
    ],
)
def test_the_first_host_that_ended_is_the_reason(tmp_path: Path, lines: list[str], found: str) -> None:
    said = shown(tmp_path, "node1: step 1/9", *lines, ENDED.format("node1", 130), hosts="node1,node2")
    for name in ("host-ended", "reason"):
        assert noted(tmp_path, name)["found"] == found
    assert ENDED.format("node1", 130) in said
    assert not any(line.startswith("SW445") for line in said), "no launch.sh has ended ranks for it"


def test_the_reason_is_shown_at_the_end_unless_rank_0_said_it(tmp_path: Path) -> None:
    lines = ["node2: bash: python: command not found", ENDED.format("node2", 127)]
    (tmp_path / "guarded").touch()
    last = shown(tmp_path, *lines, hosts="node1,node2")[-1]
    assert last.startswith("SW445 the ranks of node2 ended with exit code 127: bash: python")
    rank_0 = f"node1: {last.splitlines()[0]}"
    assert shown(tmp_path, *lines, rank_0, hosts="node1,node2")[-1] == rank_0


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("/venv/bin/python: No module named deepspeed", "pip install --constraint constraints.txt"),
        ("RuntimeError: launcher 'pdsh' not installed.", "install it on the machine that runs launch.sh"),
        ("OSError: [Errno 28] No space left on device", "free space"),
    ],
)
def test_what_the_launcher_said_last_is_the_reason_where_no_host_ended(
    tmp_path: Path, said: str, fix: str
) -> None:
    shown(tmp_path, said, "[2026-11-30] [INFO] [runner.py:1:main] bye")
    assert noted(tmp_path, "reason")["found"] == f"a program that starts the ranks failed: {said}"
    assert fix in noted(tmp_path, "reason")["fix"]


def test_pdsh_that_is_interrupted_is_not_shown(tmp_path: Path) -> None:
    assert (
        shown(tmp_path, "pdsh@vm: interrupt (one more within 1 sec to abort)", "pdsh@vm:  (^Z within 1 sec")
        == []
    )


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    """Whoever said it: a login shell of a host, ssh, DeepSpeed, a library."""
    command = [sys.executable, "-m", "launch.launcher_output", str(tmp_path), "node1,node2"]
    text = HOSTILE.replace("\n", "")
    given = f"node1: {text}\n{text}\nnode2: Error: {text}\n{ENDED.format('node2', 3)}\n"
    done = subprocess.run(
        command, cwd=PROJECT, input=given.encode(), capture_output=True, timeout=60, check=False
    )
    said = done.stderr.decode()
    assert said.count(ESCAPED) == 3
    assert not CONTROLS & set(said), said


def test_a_folder_that_takes_nothing_loses_no_reason(tmp_path: Path) -> None:
    """A full disk: what cannot be noted is printed."""
    command = [sys.executable, "-m", "launch.launcher_output", str(tmp_path / "gone"), "node1,node2"]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        input=f"node2: OSError: [Errno 28] No space left\n{ENDED.format('node2', 3)}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    reason = "SW445 the ranks of node2 ended with exit code 3: OSError: [Errno 28] No space left"
    assert done.stderr.count(reason) == 1


def test_a_full_disk_still_tells_launch_sh_that_a_host_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("planner.files.replace", fails)
    shown(tmp_path, "node2: OSError: [Errno 28] No space left", ENDED.format("node2", 3), hosts="node1,node2")
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_size == 0} == {"host-ended", "reason"}
    assert capsys.readouterr().err.count("SW445 the ranks of node2 ended with exit code 3") == 1
