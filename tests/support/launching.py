"""Starts the real thing, `deepspeed train.py` or another launcher, as a user types it, on a small text."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import processes_that_name

ROOT = Path(__file__).resolve().parents[2]
# What is not for ranks that are started as by a user: what a launcher around the tests, such as srun, has
# set; what hides GPUs from DeepSpeed's launcher; torch's recorder, which ranks.py switches off for its own.
NOT_HANDED_ON = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "TORCHELASTIC_",
    "CROSS_",
    "SLURM_",
    "OMPI_",
    "PMI",
    "CUDA_VISIBLE_DEVICES",
    "TORCH_FR_",
)

STRATEGY = """
name: smoke
cluster: {{hosts: 1, gpus_per_host: 4, gpu: cpu, links: {{intra_host: 10 GB/s, inter_host: 10 GB/s}}}}
model: {{num_hidden_layers: 2, num_experts: 8, hidden_size: 32, moe_intermediate_size: 32,
        num_attention_heads: 4, vocab_size: 512, aggregation: linear}}
parallel: {{ep: 2, zero_stage: 1}}
training: {{precision: fp32, seq_length: 32, global_batch: 8, micro_batch: 2, steps: 12, warmup_steps: 3,
           learning_rate: 4e-3, min_learning_rate: 4e-4}}
data: {{path: {text}, validation_sequences: 9}}
output: {{folder: {runs}, checkpoint_every: 3, validate_every: 4}}
"""


class Launch:
    """One `deepspeed train.py` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "runs" / "smoke"
        text = folder / "text.txt"
        lines = (f"The {n}th wagon of train {n % 7} goes to track {n * n % 13}.\n" for n in range(3000))
        text.write_text("".join(lines))
        self.strategy = folder / "smoke.yaml"
        self.strategy.write_text(STRATEGY.format(text=text, runs=folder / "runs"))
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        *overrides: str,
        ranks: int = 2,
        env: dict[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        """Starts it, on a free port each time: the last attempt's sockets may still be closing."""
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks)]
        command += [
            "--master_port",
            str(free_port() if port is None else port),
            "train.py",
            "--strategy",
            str(self.strategy),
            *overrides,
        ]
        self.start_command(command, env=env)

    def start_command(self, command: Sequence[str], *, env: dict[str, str] | None = None) -> None:
        """Starts a launcher in the project folder; `python` and the like are those of this environment."""
        here = Path(sys.executable).parent
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_ON)
        }
        environment |= {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "PATH": f"{here}:{os.environ['PATH']}",
            **(env or {}),
        }
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run_command(
        self, *command: str, env: dict[str, str] | None = None, timeout: float = 300
    ) -> tuple[int, str]:
        """Starts a launcher and waits: the exit code, all that was printed. Nothing may be left running."""
        self.start_command(command, env=env)
        code, output = self.finish(timeout)
        left = self.processes()
        for process in left:
            process.kill()
        assert not left, f"left running: {left}\n{output}"
        return code, output

    def processes(self) -> list[psutil.Process]:
        """All that has this strategy in its command."""
        return processes_that_name(self.strategy)

    def finish(self, timeout: float = 120) -> tuple[int, str]:
        """Waits; returns the exit code and everything it printed. Nothing of it is left running."""
        assert self._process is not None
        ours = self.ranks()
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            ours += self.processes()
            raise
        finally:
            for process in (*ours, self._process):
                if process.is_running() if isinstance(process, psutil.Process) else process.poll() is None:
                    process.kill()
        return self._process.returncode, output

    def train(self, *overrides: str, ranks: int = 2, env: dict[str, str] | None = None) -> tuple[int, str]:
        self.start(*overrides, ranks=ranks, env=env)
        return self.finish()

    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks, by local rank."""
        assert self._process is not None
        found: dict[str, psutil.Process] = {}
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for child in children:
            try:
                arguments = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "train.py" in arguments and "deepspeed.launcher.launch" not in arguments:
                place = next((a for a in arguments if a.startswith("--local_rank")), None)
                if place is not None:
                    found[place] = child
        return [found[place] for place in sorted(found)]

    def wait_for_listening_ranks(self, number: int, timeout: float = 60) -> None:
        """Waits until so many ranks have blocked TERM, so that they take it in a thread of their own."""
        deadline = time.monotonic() + timeout
        bit = 1 << (signal.SIGTERM - 1)
        while sum(1 for rank in self.ranks() if _blocked_signals(rank) & bit) < number:
            assert time.monotonic() < deadline, f"{number} ranks did not start in {timeout} s"
            time.sleep(0.05)

    def wait_for_step(self, step: int, timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if any(line["step"] >= step for line in self.lines()):
                return
            assert self._process is not None
            assert self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.02)
        raise AssertionError(f"step {step} was not reached in {timeout} s")

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of telemetry.jsonl."""
        path = self.run / "telemetry.jsonl"
        if not path.exists():
            return []
        return [
            json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]

    def losses(self) -> dict[int, tuple[float, float | None, float]]:
        """By step, of its last line: loss, validation loss, gradient norm."""
        return {
            line["step"]: (line["loss"], line["validation_loss"], line["grad_norm"]) for line in self.lines()
        }

    def read(self, name: str) -> dict[str, Any]:
        return json.loads((self.run / name).read_text())

    def terminate(self) -> None:
        """TERM to what was started, alone."""
        assert self._process is not None
        self._process.terminate()

    def signal_ranks(self, number: signal.Signals) -> None:
        for rank in self.ranks():
            rank.send_signal(number)


def _blocked_signals(process: psutil.Process) -> int:
    """The mask of signals that a process' main thread leaves to others; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("SigBlk:")[2].split()[0], 16)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Different ones."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
