"""Hosts of a drill, all on this machine: namespaces that can be cut off, or addresses of one sshd.

Namespaces need root, and a process that runs inside of an outer namespace (`OUTER`): a bridge, and for each
host an address, a network, processes and a name, so that nothing of it reaches the machine. Files are shared.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

OUTER = ("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
_INNER = ("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
# Where distributions put it, which is in no ordinary user's PATH.
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
_READY_S = 60.0
# Of a slow network: what is sent to the host has 5 Mbit/s (tc-tbf(8); kernels often lack netem).
_SLOW = "tbf rate 5mbit burst 32kbit latency 400ms"

SSHD_CONFIG = """\
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 512:30:1024
"""
# bash then reads no ~/.bashrc for a command (shell.c, run_startup_files). Some take seconds, or wait for a
# lock that a killed one has left: the faults of a drill are to be its own.
_PLAIN_SHELLS = "SetEnv SHLVL=2\n"
SSHD_MATCH = """\
Match LocalAddress {address}
  ForceCommand {folder}/enter {name}
"""
# Becomes the command, as sshd would have started it, unless the host is switched off.
_ENTER = """\
#!/bin/bash
[[ ! -e {folder}/$1.off ]] || exit 1
exec bash -c "$SSH_ORIGINAL_COMMAND"
"""
SSH_CONFIG = """\
{aliases}Host *
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


class CannotHaveHosts(Exception):
    """Why this machine cannot have such hosts."""


class Hosts(ABC):
    """node1 …; `ssh_config` is what a strategy names under launch.ssh_config."""

    interface: str | None = None

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self.names = tuple(f"node{number}" for number in range(1, count + 1))

    @abstractmethod
    def start(self) -> None:
        """
        Raises:
            CannotHaveHosts: says why.
        """

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def power_off(self, name: str, processes: tuple[int, ...]) -> None:
        """It answers nothing any more. processes: of the run on it, which end without a word."""

    def _make_keys(self, port: int, addresses: Mapping[str, str]) -> None:
        for key in ("key", "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        aliases = "".join(f"Host {name}\n  HostName {address}\n" for name, address in addresses.items())
        text = SSH_CONFIG.format(aliases=aliases, port=port, folder=self.folder)
        self.ssh_config.write_text(text, encoding="utf-8")

    def _wait_for(self, name: str) -> None:
        command = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", name, "true"]
        _until(lambda: _succeeds(command), f"{name} does not answer ssh")


class NamespaceHosts(Hosts):
    """At 10.77.0.1 …; this process, which is inside the outer namespace, is at 10.77.0.254."""

    interface = "eth0"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, count)
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self.are_cut: set[str] = set()

    def start(self) -> None:
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(self.names, start=1)}
        try:
            for words in (
                "link set lo up",
                "link add br0 type bridge",
                "addr add 10.77.0.254/24 dev br0",
                "link set br0 up",
            ):
                _run("ip", *words.split())
            self._name_in_files(addresses)
            self._make_keys(22, addresses)
            config = SSHD_CONFIG.format(port=22, folder=self.folder) + _PLAIN_SHELLS
            (self.folder / "sshd_config").write_text(config, encoding="utf-8")
            for number, name in enumerate(self.names, start=1):
                self._start_host(number, name)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotHaveHosts(str(error)) from None

    def _name_in_files(self, addresses: Mapping[str, str]) -> None:
        """A resolver that cannot be reached would cost every connection seconds."""
        lines = "".join(f"{address} {name}\n" for name, address in addresses.items())
        for name, text in {
            "hosts": f"127.0.0.1 localhost\n10.77.0.254 head\n{lines}",
            "resolv.conf": "",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        }.items():
            (self.folder / name).write_text(text, encoding="utf-8")
            _run("mount", "--bind", str(self.folder / name), f"/etc/{name}")
        _run("hostname", "head")
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        Path("/run/sshd").mkdir(mode=0o755)

    def _start_host(self, number: int, name: str) -> None:
        setup = (
            f"hostname {name}; until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done; "
            f"ip link set lo up; ip addr add 10.77.0.{number}/24 dev eth0; ip link set eth0 up; "
            "mount -t tmpfs tmpfs /dev/shm; "
            f"exec {_find('sshd')} -D -f '{self.folder}/sshd_config' -E '{self.folder}/{name}.log'"
        )
        self._hosts[name] = subprocess.Popen([*_INNER, "bash", "-c", setup])
        _until(lambda: self._init(name) is not None, f"{name} has no network")
        _run("ip", *f"link add v{number} type veth peer name eth0 netns {self._init(name)}".split())
        _run("ip", *f"link set v{number} master br0 up".split())
        self._wait_for(name)

    def _init(self, name: str) -> int | None:
        """The host's first process, once it has a network of its own."""
        process = self._hosts[name].pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
        for child in children.split():
            if Path(f"/proc/{child}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
                return int(child)
        return None

    def close(self) -> None:
        for process in self._hosts.values():
            process.kill()
            process.wait()

    def power_off(self, name: str, processes: tuple[int, ...]) -> None:
        """All its processes are gone at once, without a word to anybody."""
        _run("ip", "link", "set", self._link(name), "down")
        if (init := self._init(name)) is not None:
            os.kill(init, signal.SIGKILL)

    def cut(self, name: str) -> None:
        _run("ip", "link", "set", self._link(name), "down")
        self.are_cut.add(name)

    def mend_all(self) -> None:
        for name in self.are_cut:
            _run("ip", "link", "set", self._link(name), "up")
        self.are_cut.clear()

    def slow_down(self, name: str) -> None:
        _run("tc", "qdisc", "add", "dev", self._link(name), "root", *_SLOW.split())

    def speed_up(self, name: str) -> None:
        _run("tc", "qdisc", "del", "dev", self._link(name), "root")

    def _link(self, name: str) -> str:
        return f"v{name.removeprefix('node')}"


class LoopbackHosts(Hosts):
    """At 127.0.7.1 …, behind one sshd; they share processes and network, and need no root."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, count)
        self._sshd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        addresses = {name: f"127.0.7.{number}" for number, name in enumerate(self.names, start=1)}
        try:
            port = free_port(tuple(addresses.values()))
            self._make_keys(port, addresses)
            enter = self.folder / "enter"
            enter.write_text(_ENTER.format(folder=self.folder), encoding="utf-8")
            enter.chmod(0o755)
            config = SSHD_CONFIG.format(port=port, folder=self.folder) + _PLAIN_SHELLS
            config += "".join(f"ListenAddress {address}\n" for address in addresses.values())
            for name, address in addresses.items():
                config += SSHD_MATCH.format(address=address, folder=self.folder, name=name)
            (self.folder / "sshd_config").write_text(config, encoding="utf-8")
            if os.geteuid() == 0:
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            log = str(self.folder / "sshd.log")
            self._sshd = subprocess.Popen(
                [_find("sshd"), "-D", "-f", str(self.folder / "sshd_config"), "-E", log]
            )
            self._wait_for(self.names[0])
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise CannotHaveHosts(str(error)) from None

    def close(self) -> None:
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait()

    def power_off(self, name: str, processes: tuple[int, ...]) -> None:
        (self.folder / f"{name}.off").touch()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def why_no_namespaces() -> str | None:
    """None where this machine can have NamespaceHosts."""
    if missing := [name for name in ("unshare", "ip", "tc", "ssh", "sshd", "pdsh") if _which(name) is None]:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run([*OUTER, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return tried.stderr.strip() or "no network namespaces"
    return None


def why_no_loopback() -> str | None:
    """None where this machine can have LoopbackHosts, as far as its programs tell."""
    missing = [name for name in ("ssh", "ssh-keygen", "sshd", "pdsh") if _which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def _find(name: str) -> str:
    found = _which(name)
    if found is None:
        raise OSError(f"{name} is not installed")
    return found


def _run(*words: str) -> None:
    subprocess.run([_find(words[0]), *words[1:]], check=True)


def _succeeds(command: list[str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        null = subprocess.DEVNULL
        return subprocess.run(command, stdin=null, stderr=null, check=False, timeout=30).returncode == 0
    return False


def _until(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not is_so():
        if time.monotonic() > deadline:
            raise OSError(f"{otherwise} within {_READY_S:.0f} s")
        time.sleep(0.05)


def free_port(addresses: tuple[str, ...]) -> int:
    """A port that is free on all of them.

    Raises:
        OSError: where such addresses do not exist.
    """
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.socket())
        first.bind((addresses[0], 0))
        port: int = first.getsockname()[1]
        for address in addresses[1:]:
            stack.enter_context(socket.socket()).bind((address, port))
        return port
