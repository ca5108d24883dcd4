"""Hosts that can be switched off and cut off: namespaces of one machine, each with an sshd.

Runs as a program inside an outer namespace of its own (`run_inside`), so that nothing of it reaches the
machine: a bridge, and for each host an address, a network, processes and a name. Files are shared.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.drill.hosts import OUTER, SSH_CONFIG, SSHD_CONFIG
from tests.support.hosts import SSHD


def run_inside(program: str, folder: Path, timeout: float) -> dict[str, Any]:
    """Runs `python -m program folder` in an outer namespace; what it printed last, as JSON.

    Skips the test, with the reason, where the machine cannot have such hosts.
    """
    missing = [name for name in ("unshare", "ip", "ssh", "pdsh") if shutil.which(name) is None]
    if missing or SSHD is None:
        pytest.skip(f"missing: {', '.join([*missing, *(['sshd'] if SSHD is None else [])])}")
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")
    done = subprocess.run(
        [*OUTER, sys.executable, "-m", program, str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class NamespaceHosts:
    """node1 … nodeN at 10.77.0.1 …, this process being at 10.77.0.254. Made inside the outer namespace."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self.names = tuple(f"node{i}" for i in range(1, count + 1))
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        _run("ip link set lo up")
        _run("ip link add br0 type bridge")
        _run("ip addr add 10.77.0.254/24 dev br0")
        _run("ip link set br0 up")
        self._quiet_names(count)
        for key in ("key", "host_key"):
            _run(f"ssh-keygen -q -t ed25519 -N '' -f {folder / key}")
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=22, folder=folder))
        aliases = "".join(f"Host node{i}\n  HostName 10.77.0.{i}\n" for i in range(1, count + 1))
        self.ssh_config.write_text(SSH_CONFIG.format(aliases=aliases, port=22, folder=folder))
        for number in range(1, count + 1):
            self._start(number)

    def _quiet_names(self, count: int) -> None:
        """Names are found in a file: a resolver that cannot be reached costs every connection seconds."""
        lines = [f"10.77.0.{i} node{i}\n" for i in range(1, count + 1)]
        for name, text in {
            "hosts": "127.0.0.1 localhost\n10.77.0.254 head\n" + "".join(lines),
            "resolv.conf": "",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        }.items():
            (self.folder / name).write_text(text)
            _run(f"mount --bind {self.folder / name} /etc/{name}")
        _run("hostname head")
        _run("mount -t tmpfs tmpfs /run")
        Path("/run/sshd").mkdir(mode=0o755)

    def _start(self, number: int) -> None:
        setup = f"hostname node{number}; until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done; "
        setup += f"ip link set lo up; ip addr add 10.77.0.{number}/24 dev eth0; ip link set eth0 up; "
        setup += "mount -t tmpfs tmpfs /dev/shm; "
        setup += f"exec {SSHD} -D -f {self.folder}/sshd_config -E {self.folder}/node{number}.log"
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        host = subprocess.Popen([*unshare, "--mount-proc", "bash", "-c", setup])
        self._hosts[f"node{number}"] = host
        _until(lambda: self._init(f"node{number}") is not None)
        init = self._init(f"node{number}")
        _run(f"ip link add v{number} type veth peer name eth0 netns {init}")
        _run(f"ip link set v{number} master br0 up")
        _until(lambda: _succeeds(["ssh", "-F", str(self.ssh_config), f"node{number}", "true"]))

    def _init(self, name: str) -> int | None:
        """The host's first process, once it has a network of its own."""
        children = Path(f"/proc/{self._hosts[name].pid}/task/{self._hosts[name].pid}/children").read_text()
        for child in children.split():
            if Path(f"/proc/{child}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
                return int(child)
        return None

    def power_off(self, name: str) -> None:
        """All its processes are gone at once, without a word to anybody."""
        self.cut(name)
        init = self._init(name)
        assert init is not None
        os.kill(init, 9)

    def cut(self, name: str) -> None:
        _run(f"ip link set v{name.removeprefix('node')} down")

    def mend(self, name: str) -> None:
        _run(f"ip link set v{name.removeprefix('node')} up")


def _run(command: str) -> None:
    subprocess.run(["bash", "-c", command], check=True)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=30).returncode == 0


def _until(is_so: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.05)
