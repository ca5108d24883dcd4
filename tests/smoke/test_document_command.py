"""The strategy document's own command, as it is written there, on a machine without GPUs."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import train
from planner import load
from runtime.process.gpu_presence import has_gpu
from tests.support.launching import ROOT, Launch, free_port

LAUNCH = "python -m torch.distributed.launch"
DEGREES = ("--ep_degree=64", "--tp_degree=2", "--pp_degree=1", "--batch_size=128", "--seq_length=1024")
MAX_MEMORY_BYTES = 4 * 2**30
MAX_S = 30.0  # on 2 quiet cores


class Watch:
    """Everything that a command starts: its largest memory at one time, and what it leaves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.peak_bytes, self.most = 0, 0
        self.seen: dict[int, psutil.Process] = {}
        self._root = psutil.Process(process.pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> list[psutil.Process]:
        """What is still running."""
        self._is_over.set()
        self._thread.join()
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=1)
        return alive

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            try:
                here = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            self.seen |= {process.pid: process for process in here}
            sizes = [size for process in here if (size := _own_bytes(process)) is not None]
            self.most = max(self.most, len(sizes))
            self.peak_bytes = max(self.peak_bytes, sum(sizes))


def _own_bytes(process: psutil.Process) -> int | None:
    """Resident, with what it shares with its siblings counted once for each of them: an upper bound."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return None


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    """As typed in the project folder, but that runs are written to `folder`."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "DS_ACCELERATOR")
    }
    output = (folder / "output").open("w")
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_documents_strategy_needs_gpus() -> None:
    """Ranks beside rank 0 take that for granted, and read no strategy."""
    assert not load(ROOT / train.DOCUMENT_STRATEGY).cluster.gpu.is_cpu
    assert train.needs_gpus(*train.parse_arguments(DEGREES)[:2])
    assert not train.needs_gpus(*train.parse_arguments((*DEGREES, "cluster.gpu=cpu"))[:2])
    assert not train.needs_gpus(*train.parse_arguments(("--strategy", "ds_configs/tiny_cpu.yaml"))[:2])


def test_it_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, overrides, *_ = train.parse_arguments(DEGREES)
    assert Path(path).samefile(ROOT / train.DOCUMENT_STRATEGY)
    assert train.needs_gpus(path, overrides)


@pytest.mark.slow
@pytest.mark.skipif(has_gpu({}), reason="this machine has a GPU")
def test_68_processes_are_refused_once_and_leave_nothing(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.launch", "--nproc_per_node=68", "--nnodes=1", "--node_rank=0"]
    words += ["--master_addr=localhost", f"--master_port={free_port()}", "train.py", *DEGREES]
    runs = f"output.folder={tmp_path / 'runs'}"
    began = time.monotonic()
    process = start(*words, runs, folder=tmp_path)
    watch = Watch(process)
    try:
        code = process.wait(120)
    finally:
        took_s = time.monotonic() - began
        left = watch.stop()
        for each in left:
            each.send_signal(signal.SIGKILL)
    said = (tmp_path / "output").read_text()
    assert code == 1, "torchrun turns 2 into 1"
    assert said.count("SW901") == 1, said
    assert "EP64_TP2_PP1_DP1 needs 68 GPUs, on 9 hosts" in said
    assert "`python -m launch plan ds_configs/ep64_tp2_staged.yaml parallel.ep=64" in said
    assert not left
    assert not (tmp_path / "runs").exists(), "an attempt was claimed"
    assert watch.most > 60
    assert watch.peak_bytes < MAX_MEMORY_BYTES
    # Each process needs its share of the cores, which other work may have.
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert took_s < MAX_S * busy, f"{took_s:.0f} s"
    command = re.search(r"`python (-m launch plan [^`]*)`", said)
    assert command is not None
    answer = subprocess.run(
        [sys.executable, *command[1].split(), "--plain"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode in (0, 1), answer.stderr
    assert "68 of 128 GPUs, on 9 of 16 hosts" in answer.stdout


@pytest.mark.slow
def test_the_same_command_trains_a_plan_for_cpus(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    words = f"{LAUNCH} --nproc_per_node=8 --nnodes=1 --node_rank=0 --master_addr=localhost".split()
    words += [f"--master_port={free_port()}", "train.py", "--strategy", "ds_configs/tiny_staged_cpu.yaml"]
    words += ["--ep_degree=4", "--batch_size=32", "--seq_length=128", "training.steps=4"]
    code, output = launch.run_command(*words, f"output.folder={tmp_path}", timeout=600)
    assert code == 0, output
    launch.run = tmp_path / "tiny_staged_cpu"
    assert launch.read("done.json")["step"] == 4
    losses = [loss for loss, _, _ in launch.losses().values()]
    assert losses[0] > losses[-1]
