"""A private Slurm on this machine: controller, several node daemons and munge, on loopback, in one folder."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.launching import free_ports

NUM_NODES, CPUS = 3, 8
# Found where distributions put them, which is in no ordinary user's PATH.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
# Slurm 22.05. cred_expire: seconds that a requeued job waits. linuxproc and none: without cgroups.
# config_overrides: more CPUs than the machine has.
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
ReturnToService=2
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus}\n"


class Slurm:
    """node1, node2 and node3. Their names do not resolve, so ranks on several need MASTER_ADDR."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = tuple(f"node{i}" for i in range(1, NUM_NODES + 1))
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        folder = self.folder
        host = socket.gethostname().partition(".")[0]
        controller_port, *ports = free_ports(1 + NUM_NODES)
        config = _CONFIG.format(
            host=host, folder=folder, user=getpass.getuser(), controller_port=controller_port
        )
        for name, port in zip(self.names, ports, strict=True):
            (folder / "spool" / name).mkdir(parents=True)
            config += _NODE.format(name=name, host=host, port=port, cpus=CPUS)
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(config)
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {
            "key-file": key,
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "munge.seed",
        }
        # --force: its folder is private, which munged would only accept with a warning.
        self._run("munged", "--foreground", "--force", *(f"--{k}={folder / v}" for k, v in files.items()))
        _wait(lambda: (folder / "munge.socket").exists(), self._logs)
        self._run("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for name in self.names:
            self._run("slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", name)
        _wait(self._is_idle, self._logs)

    def stop(self) -> None:
        """Ends all jobs, waits until none is left, and ends the daemons in the reverse order of their start.

        A daemon that ends before a job's step manager would leave the step's processes behind.
        """
        try:
            if self._daemons and shutil.which("scancel"):
                self.ask("scancel", "--me")
                _wait(lambda: self.ask("squeue", "--noheader") == "", self._logs)
        finally:
            self._end_daemons()

    def _end_daemons(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _run(self, program: str, *options: str) -> None:
        path = shutil.which(program, path=_PATH)
        assert path is not None
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [path, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )

    def _is_idle(self) -> bool:
        assert all(daemon.poll() is None for daemon in self._daemons), self._logs()
        return self.ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * NUM_NODES

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints, its errors included: an empty answer is one."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout

    def _logs(self) -> str:
        return (self.folder / "daemons.log").read_text(errors="replace")[-3000:]


def start_or_skip(slurm: Slurm) -> None:
    """Skips where Slurm is not installed; a Slurm that does not start is a failure."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing (apt-get install slurm-wlm)")
    try:
        slurm.start()
    except BaseException:
        slurm.stop()
        raise


def _wait(is_so: Callable[[], bool], logs: Callable[[], str], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, logs()
        time.sleep(0.1)
