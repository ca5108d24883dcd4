"""Several hosts on one machine: an sshd on loopback addresses, each address a host with a name.

They share files, processes and memory; what a host is by itself (its packages, its clock, its disk) is given
to it by a hook, a piece of shell that runs before each command on that host alone.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from launch.drill.hosts import SSH_CONFIG, SSHD_CONFIG, SSHD_MATCH, free_port

# Found where distributions put it, which is in no ordinary user's PATH.
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NUM_HOSTS = 9

# bash reads the hook, then becomes the command, as sshd would have started it.
_ENTER = """\
#!/bin/bash
name=$1
[[ ! -r {folder}/$name.hook ]] || . {folder}/$name.hook
exec bash -c "$SSH_ORIGINAL_COMMAND"
"""


class LoopbackHosts:
    """node1 … node9 behind one sshd; `ssh_config` is what a strategy names under launch.ssh_config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self.key = folder / "key"
        self.names = tuple(f"node{i}" for i in range(1, NUM_HOSTS + 1))
        self._addresses = {name: f"127.0.7.{i}" for i, name in enumerate(self.names, start=1)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Raises:
            OSError: if this machine cannot have such hosts; says why.
        """
        if SSHD is None or shutil.which("pdsh") is None or shutil.which("ssh") is None:
            raise OSError("sshd, ssh or pdsh is missing (apt-get install openssh-server pdsh)")
        folder, port = self.folder, free_port(tuple(self._addresses.values()))
        for key in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
            )
        (folder / "enter").write_text(_ENTER.format(folder=folder))
        (folder / "enter").chmod(0o755)
        hosts = self._addresses.items()
        config = SSHD_CONFIG.format(port=port, folder=folder)
        config += "".join(f"ListenAddress {address}\n" for _, address in hosts)
        config += "".join(
            SSHD_MATCH.format(address=address, folder=folder, name=name) for name, address in hosts
        )
        (folder / "sshd_config").write_text(config)
        aliases = "".join(f"Host {name}\n  HostName {address}\n" for name, address in hosts)
        self.ssh_config.write_text(SSH_CONFIG.format(aliases=aliases, port=port, folder=folder))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = folder / "sshd.log"
        self._process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)])
        deadline = time.monotonic() + 10
        while subprocess.run(self.command(self.names[0], "true"), check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise OSError(f"sshd does not serve loopback addresses here: {log.read_text()[-500:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def command(self, name: str, *words: str) -> list[str]:
        """What runs `words` on a host."""
        return ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", name, *words]

    def hook(self, name: str, shell: str) -> None:
        """Runs before each command on that host; may change SSH_ORIGINAL_COMMAND, which comes after it."""
        (self.folder / f"{name}.hook").write_text(shell)

    def clear_hooks(self) -> None:
        for hook in self.folder.glob("*.hook"):
            hook.unlink()


def start_or_skip(hosts: LoopbackHosts) -> None:
    try:
        hosts.start()
    except OSError as error:
        pytest.skip(str(error))
