"""How ssh is run and what its failures mean; a program of our own stands in for ssh."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.preflight.ask_hosts import HostAnswer, ask_hosts, shared_folder
from launch.remote import host_inspector
from launch.scripts.launch_files import launch_files, launch_paths
from launch.ssh.client import Program, Ssh, on_all, talk
from launch.ssh.failures import KINDS, HostFailure, explain
from launch.ssh.options import OPTIONS, ssh_arguments
from planner import build_plan, load

PROGRAM = Program(
    project=Path("/my project"), python="/env/bin/python", module="launch.remote.host_inspector"
)
OVER_SSH = Ssh(ssh_config=None, is_local=False, timeout_s=20)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a script of our own before ssh."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(body: str) -> None:
        (tmp_path / "ssh").write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "ssh").chmod(0o755)

    return write


def ask(ssh: Ssh, *hosts: str) -> dict[str, Any]:
    async def one(host: str) -> Any:
        async with talk(ssh, host, PROGRAM) as conversation:
            return await conversation.ask({"do": "time"})

    return asyncio.run(on_all(ssh, hosts, one, lambda host, failure: None))


def test_the_options_are_those_of_launch_sh() -> None:
    overrides = ["cluster.hosts=[a, b]", "cluster.gpus_per_host=2"]
    plan = build_plan(load("ds_configs/tiny_cpu.yaml", overrides))
    script = launch_files(plan, launch_paths(plan), {})["launch.sh"].decode()
    assert f"ssh_options=({' '.join(OPTIONS)})" in script
    assert "BatchMode=yes" in OPTIONS
    arguments = ssh_arguments(Path("/c"), {"PDSH_SSH_ARGS_APPEND": "-o Port=2 -v"})
    assert arguments[:3] == ("-o", "Port=2", "-v")
    assert arguments[3 : 3 + len(OPTIONS)] == OPTIONS
    assert arguments[-4:] == ("-F", "/c", "-a", "-x")


def test_a_host_gets_one_quoted_command_and_is_never_taken_for_an_option() -> None:
    command = OVER_SSH.command("user@node1", PROGRAM, {})
    assert command[0] == "ssh"
    assert command[-3:-1] == ["--", "user@node1"]
    words = subprocess.run(
        ["bash", "-c", f"set -- {command[-1]}; printf '%s\\n' \"$@\""],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert words[-5:] == ["sh", "/my project", "/env/bin/python", "-m", "launch.remote.host_inspector"]


def test_only_localhost_of_a_local_plan_goes_without_ssh() -> None:
    local = Ssh(ssh_config=None, is_local=True)
    assert local.command("localhost", PROGRAM)[0] == "/bin/sh"
    assert local.command("spare1", PROGRAM)[0] == "ssh"
    assert OVER_SSH.command("localhost", PROGRAM)[0] == "ssh"


def test_an_answer_is_found_among_what_a_login_shell_prints(stand_in: Any) -> None:
    stand_in('echo Welcome; echo "[1, 2]"; read line; echo "{\\"answer\\": \\"time\\", \\"time\\": 5}"; cat')
    assert ask(OVER_SSH, "a") == {"a": {"answer": "time", "time": 5}}


def test_hosts_are_asked_at_once(stand_in: Any) -> None:
    """No host answers before all twelve have been started."""
    stand_in(
        'touch "$(dirname "$0")/started-$$"\n'
        'until [[ $(ls "$(dirname "$0")" | grep -c started-) -ge 12 ]]; do sleep 0.05; done\n'
        'read line; echo "{\\"answer\\": \\"time\\"}"'
    )
    found = ask(OVER_SSH, *(f"h{i}" for i in range(12)))
    assert list(found.values()) == [{"answer": "time"}] * 12


def test_a_host_that_does_not_answer_in_time_is_left_and_nothing_of_it(stand_in: Any) -> None:
    stand_in("echo $$ >$(dirname $0)/pid-$$; exec sleep 60")
    found = ask(Ssh(ssh_config=None, is_local=False, timeout_s=0.8), "a")["a"]
    assert (found.kind, found.code) == ("time-out", "SW505")
    assert "within 1 s" in found.found
    assert [p for p in psutil.Process().children(recursive=True) if "sleep" in p.name()] == []


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        ("head -c 3000000 /dev/zero | tr '\\0' x; sleep 20", "1048576 bytes"),
        ("while true; do echo noise; done", "200 lines"),
    ],
)
def test_a_host_that_sends_endless_output_is_cut_off(stand_in: Any, body: str, fact: str) -> None:
    stand_in(body)
    found = ask(OVER_SSH, "a")["a"]
    assert found.kind == "broken answer", "not a time-out"
    assert fact in found.found


def test_much_on_stderr_does_not_stop_the_conversation(stand_in: Any) -> None:
    stand_in('head -c 1000000 /dev/zero | tr "\\0" "e" >&2; read l; echo "{\\"answer\\": \\"time\\"}"')
    assert ask(OVER_SSH, "a") == {"a": {"answer": "time"}}


def test_missing_ssh_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = ask(OVER_SSH, "a")["a"]
    assert (found.kind, found.code) == ("unreachable", "SW501")
    assert "ssh is not installed" in found.found


# What OpenSSH 9.2 said when it was made to.
SAID = [
    (255, "ssh: Could not resolve hostname a: Name or service not known\r\n", "name unknown"),
    (255, "ssh: connect to host a port 22: Connection refused\r\n", "unreachable"),
    (255, "ssh: connect to host a port 22: No route to host\r\n", "unreachable"),
    (255, "ssh: connect to host a port 22: Connection timed out\r\n", "time-out"),
    (255, "Connection timed out during banner exchange\r\n", "time-out"),
    (255, "Timeout, server a not responding.\r\n", "time-out"),
    (255, "Connection closed by 127.0.0.2 port 22\r\n", "unreachable"),
    (255, "root@a: Permission denied (publickey).\r\n", "key refused"),
    (255, "Host key verification failed.\r\n", "host key unknown"),
    (
        255,
        "@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@\nIT IS POSSIBLE …\n"
        "Host key verification failed.\r\n",
        "host key changed",
    ),
    (
        255,
        "/c: line 2: Bad configuration option: nonsense\r\n/c: terminating, 1 bad configuration options\r\n",
        "ssh configuration",
    ),
    (255, "something new", "unreachable"),
    (97, "sh: 1: cd: can't cd to /p\n", "folder missing"),
    (98, "", "python missing"),
    (1, "/env/bin/python: No module named launch.remote.host_inspector\n", "broken answer"),
    (127, "bash: nothing", "broken answer"),
    (-9, "", "broken answer"),
]


@pytest.mark.parametrize(("code", "said", "kind"), SAID)
def test_each_failure_is_told_apart(code: int, said: str, kind: str) -> None:
    failure = explain("a", code, said)
    assert failure.kind == kind
    assert failure.code == KINDS[kind]
    assert "a" in failure.found
    assert failure.expected
    assert "{" not in failure.fix


OLDER = '{"answer": "facts", "hostname": "a", "python": "3.11.7", "shared": {"nonce": null}}'


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (('{"answer": "time"}',), "to a request for the time"),
        (('{"answer": "time", "time": "noon"}',), "to a request for the time"),
        (('{"answer": "time", "time": 5}',) * 7 + (OLDER,), "facts without code, cuda, disk, "),
    ],
)
def test_a_host_whose_answer_lacks_something_leaves_the_others_asked(
    stand_in: Any, tmp_path: Path, answers: tuple[str, ...], words: str
) -> None:
    with shared_folder(tmp_path / "runs") as shared:
        facts = host_inspector.facts(
            output=str(tmp_path), shared=str(shared.folder), me="b", wants_gpus=False
        )
        whole = ('{"answer": "time", "time": 5}',) * 7 + (json.dumps({"answer": "facts", **facts}),)
        for name, lines in (("a", answers), ("b", whole)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        stand_in(
            f'while [[ $1 != -- ]]; do shift; done; while read -r said <&3; do read -r; echo "$said"; '
            f"done 3<{tmp_path}/$2"
        )
        asking = ask_hosts(
            OVER_SSH,
            PROGRAM,
            ["a", "b"],
            tmp_path / "runs",
            shared,
            wants_gpus=False,
            modules=(),
            on_answer=lambda host, failure: None,
        )
        found = asyncio.run(asking)
    assert isinstance(found["a"], HostFailure)
    assert found["a"].kind == "broken answer"
    assert words in found["a"].found
    assert isinstance(found["b"], HostAnswer)


def test_a_failure_shows_the_message_of_ssh(stand_in: Any) -> None:
    stand_in("echo 'ssh: connect to host a port 22: Connection refused' >&2; exit 255")
    found = ask(OVER_SSH, "a")["a"]
    assert found.kind == "unreachable"
    assert "ssh: connect to host a port 22: Connection refused" in found.found
    assert "`ssh a true`" in found.expected
