"""Preflight over real ssh: each fault is reported on its host, and no process is left."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.__main__ import main
from tests.support.hosts import LoopbackHosts

ROOT = Path(__file__).parents[3]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
STRATEGY = "ds_configs/tiny_cpu.yaml"
# A stub of what an installed torch says of itself.
OTHER_TORCH = "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n"
FULL_DISK = """
import os
real = os.statvfs
def statvfs(path):
    found = list(real(path))
    found[4] = 0  # f_bavail
    return os.statvfs_result(found)
os.statvfs = statvfs
"""
WITHOUT_SAFETENSORS = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "safetensors":
            raise ModuleNotFoundError("No module named 'safetensors'", name=name)
sys.meta_path.insert(0, Without())
"""
# Two GPUs as the driver of a host would tell of them; the second had an error.
FAKE_NVML = """
from types import SimpleNamespace
NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
NVML_VOLATILE_ECC, NVML_AGGREGATE_ECC = 0, 1
NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0
NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "570.86.10"
def nvmlSystemGetCudaDriverVersion_v2(): return 12080
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(i): return i
def nvmlDeviceGetName(h): return "NVIDIA H100 80GB HBM3"
def nvmlDeviceGetMemoryInfo(h): return SimpleNamespace(total=85520809984, used=0)
def nvmlDeviceGetEccMode(h): return [1, 1]
def nvmlDeviceGetTotalEccErrors(h, error, counter): return 4 if (h, error) == (1, 1) else 0
def nvmlDeviceGetRetiredPages(h, cause): raise NVMLError("Not Supported")
def nvmlDeviceGetRetiredPagesPendingStatus(h): raise NVMLError("Not Supported")
def nvmlDeviceGetRemappedRows(h): return (0, 0, 0, 0)
def nvmlDeviceGetComputeRunningProcesses(h): return []
"""


@dataclass(frozen=True)
class Scene:
    """Hosts, a folder for runs, and aliases of ssh for hosts that cannot be reached."""

    hosts: LoopbackHosts
    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    def stub(self, name: str, files: dict[str, str]) -> str:
        """A folder of modules that come before the installed ones; the shell that puts it there."""
        for file, text in files.items():
            path = self.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return f"export PYTHONPATH={self.folder / name}\n"

    def preflight(self, *arguments: str, hosts: str) -> list[str]:
        return [
            "preflight",
            STRATEGY,
            f"cluster.hosts=[{hosts}]",
            f"launch.ssh_config={self.ssh_config}",
            f"output.folder={self.runs}",
            "cluster.links={intra_host: 1 kB/s, inter_host: 1 kB/s}",
            *arguments,
        ]


@pytest.fixture
def scene(hosts: LoopbackHosts, tmp_path: Path) -> Scene:
    found = Scene(hosts, tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    wrong_key = (tmp_path / "other.pub").read_text().split(" ")
    (tmp_path / "known").write_text(f"changed {wrong_key[0]} {wrong_key[1]}\n")
    plain = hosts.ssh_config.read_text().replace("Host *", "Host * !refused")  # keys would add up
    port = plain.split("Port ")[1].split()[0]
    found.ssh_config.write_text(
        f"Host refused\n  HostName 127.0.7.8\n  IdentityFile {tmp_path / 'other'}\n  IdentitiesOnly yes\n"
        f"  Port {port}\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        f"Host down\n  HostName 127.0.0.1\n  Port {closed}\n"
        f"Host changed\n  HostName 127.0.7.9\n  HostKeyAlias changed\n  StrictHostKeyChecking yes\n"
        f"  UserKnownHostsFile {tmp_path / 'known'}\n" + plain
    )
    return found


def answer_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main([*arguments, "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["code"] == code
    return answer


def failing(answer: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    return {(c["name"], c["host"]): c["found"] for c in answer["checks"] if c["verdict"] == "fails"}


def test_every_fault_is_reported_on_its_host(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    other_torch = scene.stub("torch", {"torch-9.9.9.dist-info/METADATA": OTHER_TORCH})
    scene.hosts.hook("node2", other_torch)
    scene.hosts.hook("node3", scene.stub("full", {"sitecustomize.py": FULL_DISK}))
    if FAKETIME is not None:
        scene.hosts.hook("node4", f"export LD_PRELOAD={FAKETIME} FAKETIME=-1h\n")
    scene.hosts.hook("node5", "echo Welcome to node5\n")
    scene.hosts.hook("node6", "ulimit -n 40\n")
    scene.hosts.hook("node7", scene.stub("without", {"sitecustomize.py": WITHOUT_SAFETENSORS}))
    answer = answer_of(
        capsys,
        *scene.preflight(
            "parallel={ep: 4}",
            "training.micro_batch=6",
            "cluster.gpus_per_host=1",
            "cluster.spare_hosts=7",
            "--hosts-only",
            hosts="node1, node2, node3, node4, node5, node6, refused, down, changed, nosuch.invalid, node7",
        ),
    )
    expected = {
        ("torch", "node2"),
        ("disk", "node3"),
        ("open files", "node6"),
        ("modules", "node7"),
        ("answers", "refused"),
        ("answers", "down"),
        ("answers", "changed"),
        ("answers", "nosuch.invalid"),
    }
    found = failing(answer)
    if FAKETIME is not None:
        expected.add(("clock", "node4"))
        assert found["clock", "node4"].startswith("-3600.")
    assert set(found) == expected
    assert found["torch", "node2"] == "9.9.9"
    assert found["modules", "node7"] == "cannot find safetensors"
    kinds = {host["name"]: host["failure"] for host in answer["hosts"] if host["failure"]}
    assert kinds == {
        "refused": "key refused",
        "down": "unreachable",
        "changed": "host key changed",
        "nosuch.invalid": "name unknown",
    }
    roles = {host["name"]: host["role"] for host in answer["hosts"]}
    assert (roles["node4"], roles["node5"], roles["node7"]) == ("ranks", "spare", "spare")
    assert answer["code"] == 1
    assert not answer["job"]["ran"]
    assert not scene.runs.exists()
    if FAKETIME is None:
        pytest.skip("all but the wrong clock was seen: faketime is not installed")


def test_a_host_that_does_not_share_the_path_is_told(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here (unshare --mount)")
    scene.runs.mkdir()
    hidden = f"mount -t tmpfs none {scene.runs}"
    scene.hosts.hook(
        "node2",
        f"export THEN=$SSH_ORIGINAL_COMMAND\n"
        f'SSH_ORIGINAL_COMMAND=\'exec unshare --mount bash -c "{hidden}; exec bash -c \\"\\$THEN\\""\'\n',
    )
    answer = answer_of(
        capsys,
        *scene.preflight("parallel={ep: 2}", "cluster.gpus_per_host=1", "--hosts-only", hosts="node1, node2"),
    )
    found = failing(answer)
    assert list(found) == [("shared path", "node2")]
    assert list(scene.runs.iterdir()) == []


def test_gpus_are_counted_and_a_host_without_a_driver_says_so(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.hosts.hook("node1", scene.stub("gpus", {"pynvml.py": FAKE_NVML}))
    gpu = ("cluster.gpu=H100", "training.precision=bf16", "cluster.gpus_per_host=2")
    answer = answer_of(capsys, *scene.preflight(*gpu, hosts="node1, node2"))
    found = failing(answer)
    assert found["GPUs", "node2"] == "no NVIDIA driver"
    assert found["GPU health", "node1"] == "GPU 1: 4 uncorrected ECC errors since boot"
    assert ("GPUs", "node1") not in found
    assert answer["hosts"][0]["facts"]["gpus"]["devices"][0]["memory_bytes"] == 85520809984
    assert answer["code"] == 1
    assert "no ranks were started" in answer["job"]["why_not"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_while_hosts_are_asked_leaves_nothing(scene: Scene, number: signal.Signals) -> None:
    mark = scene.folder / "asked"
    scene.hosts.hook("node2", f"touch {mark}; sleep 12\n")
    command = scene.preflight("parallel={ep: 2}", "cluster.gpus_per_host=1", hosts="node1, node2")
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < deadline, "node2 was never asked"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "stopped" in told
    assert not scene.runs.exists()
    deadline = time.monotonic() + 10
    while any(_is_inspection(process) for process in psutil.process_iter()):
        assert time.monotonic() < deadline, "an inspection goes on, though nobody listens"
        time.sleep(0.1)


def _is_inspection(process: psutil.Process) -> bool:
    try:
        return "launch.remote.host_inspector" in process.cmdline()
    except psutil.Error:
        return False


def test_missing_pdsh_is_reported(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *a, **k: None if name == "pdsh" else real(name, *a, **k)
    )
    answer = answer_of(
        capsys, *scene.preflight("parallel={ep: 2}", "cluster.gpus_per_host=1", hosts="node1, node2")
    )
    assert list(failing(answer)) == [("pdsh", None)]


def test_a_plan_of_this_machine_alone_needs_no_ssh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "ssh").chmod(0o755)
    assert main(["preflight", STRATEGY, f"output.folder={tmp_path / 'runs'}", "--hosts-only", "--plain"]) == 0
    printed = capsys.readouterr().out
    assert "localhost  ranks 0-3" in printed
    assert printed.endswith("the hosts are ready; no exchange was run\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ds_configs/ep64_tp2_staged.yaml",), "SW408 cluster.hosts: "),
        ((STRATEGY, "output.folder=/proc/nowhere"), "SW403 "),
        ((STRATEGY, "--hardware", "train.py"), "train.py: "),
        ((STRATEGY, "launch.ssh_config=/nowhere"), "SW429 "),
        ((STRATEGY, STRATEGY), "SW483 "),
        ((STRATEGY, "parallel.ep=3"), "parallel.ep=3"),
        (("nothing.yaml",), "nothing.yaml"),
        ((STRATEGY, "--job-only"), "SW482 No such option: --job-only"),
    ],
)
def test_wrong_input_is_2(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", *arguments, "--hosts-only"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
