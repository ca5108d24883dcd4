"""Hosts whose ranks cannot start: the terminal and failed.json name the host and the reason."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job

MISSING = "raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
WITHOUT = "SSH_ORIGINAL_COMMAND=${{SSH_ORIGINAL_COMMAND/PYTHONPATH=/PYTHONPATH={folder}:}}\n"
READ_ONLY = """\
if [[ $SSH_ORIGINAL_COMMAND == *deepspeed.launcher.launch* ]]; then
  ro='mount --bind {run} {run} && mount -o remount,ro,bind {run}'
  exec unshare --mount bash -c "$ro"' && exec bash -c "$0"' "$SSH_ORIGINAL_COMMAND"
fi
"""
OTHER_INTERFACE = """\
name=SWITCHYARD_PLAN
SSH_ORIGINAL_COMMAND=${SSH_ORIGINAL_COMMAND/export $name/export GLOO_SOCKET_IFNAME=eth9; export $name}
"""


@dataclass(frozen=True)
class Ended:
    """A launch that has failed: its exit code, what its terminal showed, and its failed.json."""

    code: int
    terminal: str
    failed: dict[str, Any]


@pytest.fixture(scope="module")
def ended(loopback: LoopbackHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All of them at once, on hosts of their own."""
    folder = tmp_path_factory.mktemp("cannot-start")
    modules = folder / "modules"
    modules.mkdir()
    # DeepSpeed's programs do not need it.
    (modules / "yaml.py").write_text(MISSING.format(name="yaml"))
    names = {
        "module of rank 1": ("node1", "node2"),
        "module of rank 0": ("node3", "node4"),
        "read-only": ("node5", "node6"),
        "interface": ("node7", "node8"),
    }
    jobs = {name: _job(folder, name.replace(" ", "-"), loopback, *hosts) for name, hosts in names.items()}
    loopback.hook("node2", WITHOUT.format(folder=modules))
    loopback.hook("node3", WITHOUT.format(folder=modules))
    loopback.hook("node6", READ_ONLY.format(run=jobs["read-only"].run))
    loopback.hook("node8", OTHER_INTERFACE)
    try:
        for job in jobs.values():
            job.start()
        found = {}
        for name, job in jobs.items():
            code, _ = job.finish()
            assert job.processes() == []
            found[name] = Ended(code, job.output.read_text(), job.read("failed.json"))
        loopback.clear_hooks()
        yield found
    finally:
        loopback.clear_hooks()
        for job in jobs.values():
            job.kill_all()


def _job(folder: Path, name: str, hosts: LoopbackHosts, *names: str, **options: Any) -> Job:
    overrides = (f"cluster.hosts=[{', '.join(names)}]", "cluster.gpus_per_host=1")
    more = ("parallel={ep: 2, zero_stage: 1}", "launch.timeout=120 s", "training.steps=4")
    job = Job(folder, name, hosts.ssh_config, *overrides, *more, **options)
    script = job.run / "launch.sh"
    script.write_text(script.read_text().replace("out > 30", "out > 3"))
    return job


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "reason", "found"),
    [
        ("module of rank 1", 3, "SW445", "the ranks of node2 ended with exit code 3: SW608 "),
        ("module of rank 0", 3, "SW445", "the ranks of node3 ended with exit code 3: SW608 "),
        ("read-only", 2, "SW609", f"{os.uname().nodename} cannot write the logs of its ranks to "),
        ("interface", 2, "SW618", "GLOO_SOCKET_IFNAME=eth9: there is no interface eth9 (rank 1 on "),
    ],
)
def test_the_reason_is_on_the_terminal_and_in_failed_json(
    ended: dict[str, Ended], name: str, code: int, reason: str, found: str
) -> None:
    if name == "read-only" and subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    end = ended[name]
    assert end.code == code, end.terminal
    assert [(p["code"], p["found"].startswith(found)) for p in end.failed["problems"]] == [(reason, True)]
    assert end.failed["code"] == code
    assert f"{reason} " in end.terminal
    assert found in end.terminal
    assert end.terminal.count(f"{end.failed['problems'][0]['found']}\n") == 1, "it is said once"
    for noise in ("Traceback", "frame #", "stopped by"):
        assert noise not in end.terminal


def test_a_host_without_the_interpreter_is_named_before_anything_starts(
    tmp_path: Path, hosts: LoopbackHosts
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    job = _job(tmp_path, "no-python", hosts, "node1", "node2", light=True)
    python = Path(sys.executable).resolve()
    hide = f"mount --bind /dev/null {python}"
    hosts.hook(
        "node2", f'exec unshare --mount bash -c \'{hide} && exec bash -c "$0"\' "$SSH_ORIGINAL_COMMAND"\n'
    )
    try:
        job.start()
        code, said = job.finish()
    finally:
        job.kill_all()
    assert code == 2
    assert f"node2: no Python interpreter {sys.executable}: all hosts need it at this path" in said
    assert "launch.sh: SW433 " in said
