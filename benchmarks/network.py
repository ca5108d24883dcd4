"""Hosts with a slow network on one machine: network namespaces on a bridge, each link held to a rate.

Ranks of one host talk to each other without a limit; what goes from host to host passes a token bucket filter
(tc-tbf(8)) when it leaves and when it arrives. Linux, as root.
"""

import ctypes
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

_CLONE_NEWNET = 0x40000000  # sched.h
_BRIDGE = "br0"
_DEVICE = "eth0"


class NoNamespacesError(RuntimeError):
    """This machine cannot have such hosts; the message says why."""


class Network:
    """Hosts 0, 1, …; they end with this object, or with this process."""

    def __init__(self, num_hosts: int, rate: str | None = None) -> None:
        """`rate`: of each host's link, each way, as tc writes it: 200mbit. None: no limit.

        Raises:
            NoNamespacesError: if this machine cannot have such hosts.
        """
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._room = self._namespace()
            _run(self._room, f"ip link add {_BRIDGE} type bridge")
            _run(self._room, f"ip link set {_BRIDGE} up")
            self._hosts = [self._host(number, rate) for number in range(num_hosts)]
        except BaseException:
            self.close()
            raise

    def enter(self, host: int) -> None:
        """This process, and what it starts from here on, is on that host. Before it opens a socket."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{self._hosts[host]}/ns/net").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = _DEVICE

    def sent_bytes(self, host: int) -> int:
        """What has left a host for the others, headers included."""
        table = Path(f"/proc/{self._hosts[host]}/net/dev").read_text(encoding="ascii")
        (line,) = (each for each in table.splitlines() if each.strip().startswith(f"{_DEVICE}:"))
        return int(line.split()[9])  # proc_pid_net(5): eight of what came, then what left

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _namespace(self) -> int:
        """A process that holds a network of its own, until its standard input ends."""
        try:
            process = subprocess.Popen(
                ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise NoNamespacesError(str(error)) from error
        self._processes.append(process)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            if process.poll() is not None or time.monotonic() > deadline:
                assert process.stderr is not None
                raise NoNamespacesError(process.stderr.read().decode().strip())
            time.sleep(0.01)
        return process.pid

    def _host(self, number: int, rate: str | None) -> int:
        host, cable = self._namespace(), f"v{number}"
        _run(self._room, f"ip link add {cable} type veth peer name {_DEVICE} netns {host}")
        _run(self._room, f"ip link set {cable} master {_BRIDGE} up")
        _run(host, "ip link set lo up")
        _run(host, f"ip addr add 10.77.4.{number + 1}/24 dev {_DEVICE}")
        _run(host, f"ip link set {_DEVICE} up")
        if rate is not None:
            for where, device in ((self._room, cable), (host, _DEVICE)):
                _run(where, f"tc qdisc add dev {device} root tbf rate {rate} burst 256kb latency 1s")
        return host


def _run(process: int, command: str) -> None:
    words = ["nsenter", f"--net=/proc/{process}/ns/net", *command.split()]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoNamespacesError(str(error)) from error
    if done.returncode != 0:
        raise NoNamespacesError(f"{command}: {done.stderr.strip()}")
