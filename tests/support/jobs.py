"""Jobs on several hosts, started by the launch.sh that `generate` writes, and what is left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from launch.job import _LAUNCHERS
from launch.scripts.launch_files import launch_files, write_together
from launch.scripts.template import LaunchPaths
from planner import build_plan, loads
from planner.paths import PROJECT
from tests.support.launching import NOT_HANDED_ON
from tests.support.processes import processes_that_name

STRATEGY = """
name: {name}
cluster: {{hosts: 1, gpus_per_host: 4, gpu: cpu, links: {{intra_host: 10 GB/s, inter_host: 10 GB/s}}}}
model: {{num_hidden_layers: 2, num_experts: 8, hidden_size: 32, moe_intermediate_size: 32,
        num_attention_heads: 4, vocab_size: 512, aggregation: linear}}
parallel: {{ep: 4, tp: 2, zero_stage: 1}}
training: {{precision: fp32, seq_length: 32, global_batch: 8, micro_batch: 2, steps: 40, warmup_steps: 3,
           learning_rate: 4e-3, min_learning_rate: 4e-4}}
data: {{path: {text}, validation_sequences: 9}}
output: {{folder: {runs}, checkpoint_every: 20, validate_every: 20}}
"""

# A rank that trains nothing: it says who it is and what it was given, and stays until the test lets it go.
LIGHT_RANK = """
import json, os, sys, time
from pathlib import Path
from runtime.process.identity import identify
from runtime.process.launcher_watch import hosts_given
from runtime.process.stop_signals import StopRequest, block_signals

run = Path(sys.argv[sys.argv.index("--strategy") + 1]).parent
rank = str(identify(how="").rank)
step_s = float(os.environ.get("LIGHT_STEP_S", "0.05"))
block_signals()
(run / "light").mkdir(exist_ok=True)
def end(reason):
    (run / "light" / f"{rank}.end").write_text(reason)
    os._exit(130)
stop = StopRequest()
stop.listen(end, end)
stop.begin_steps()
if rank == "0":
    from runtime.startup.claims import claim
    from runtime.startup.outcome_files import write_done, write_failed
    attempt = claim(run, {})
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
seen |= {"hosts": hosts_given(), "pid": os.getpid()}
temporary = run / "light" / f"{rank}.new"
temporary.write_text(json.dumps(seen))
temporary.replace(run / "light" / f"{rank}.json")
while not (run / "light" / "finish").exists():
    if stop.asked:
        if rank == "0":
            write_failed(run, code=130, problems=(), checkpoint=None, attempt=attempt)
        end("asked by " + stop.asked)
    time.sleep(step_s)
if rank == "0":
    write_done(run, {"attempt": attempt})
"""


class Job:
    """A run's folder with its generated files, and the launch.sh in it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        ssh_config: Path | None,
        *overrides: str,
        light: bool = False,
        targets: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            ssh_config: how the hosts are reached; None for a job on this machine.
            light: ranks that train nothing, in a project of their own.
            targets: as in `generate --for`; none for launch.sh and launch.sbatch.
        """
        text = folder / "text.txt"
        if not text.exists():
            lines = (f"The {n}th wagon of train {n % 7} goes to track {n * n % 13}.\n" for n in range(3000))
            text.write_text("".join(lines))
        if ssh_config is not None:
            overrides = (f"launch.ssh_config={ssh_config}", *overrides)
        source = STRATEGY.format(name=name, text=text, runs=folder / "runs")
        self.plan = build_plan(loads(source, overrides))
        self.run = Path(self.plan.strategy.output.folder) / name
        self.output = self.run / "launch.out"
        self.project = _light_project(folder) if light else PROJECT
        paths = LaunchPaths(project=self.project, run=self.run, python=sys.executable, ssh_config=ssh_config)
        self.files = launch_files(self.plan, paths, {}, targets)
        write_together(self.run, self.files)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, env: dict[str, str] | None = None) -> None:
        """Starts launch.sh in a session of its own, as a terminal would."""
        self.start_command([str(self.run / "launch.sh")], env=env, cwd=self.run)

    def start_command(self, command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(NOT_HANDED_ON)}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=clean | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def finish(self, timeout: float = 600) -> tuple[int, str]:
        """The exit code and all that was printed, ranks' logs included."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            print(self.said())
            self.kill_all()
            raise
        return code, self.said()

    def said(self) -> str:
        logs = sorted((self.run / "logs").glob("*_rank*.log"))
        return "".join(path.read_text() for path in (self.output, *logs))

    def kill_all(self) -> None:
        for process in self.processes():
            process.kill()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this job on any host, launch.sh and DeepSpeed's own programs included."""
        return processes_that_name(self.run)

    def of(self, program: str) -> list[psutil.Process]:
        """The processes of a program by its name in the command: a module, pdsh, train.py."""
        found = []
        for process in self.processes():
            try:
                words = process.cmdline()[:5]
            except psutil.Error:  # it has ended meanwhile
                continue
            is_rank = "train.py" in words and not set(words) & set(_LAUNCHERS)
            if is_rank if program == "train.py" else program in words:
                found.append(process)
        return found

    def wait_for_light_ranks(self, timeout: float = 600) -> dict[int, dict[str, Any]]:
        """What each rank saw, once all have said it."""
        world = self.plan.world_size
        until(lambda: len(list((self.run / "light").glob("*.json"))) == world, timeout, self.alive)
        return {rank: self.read(f"light/{rank}.json") for rank in range(world)}

    def wait_for_step(self, step: int, timeout: float = 600) -> None:
        until(lambda: any(line["step"] >= step for line in self.lines()), timeout, self.alive)

    def alive(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.said()

    def let_go(self) -> None:
        (self.run / "light" / "finish").touch()

    def ends(self) -> dict[int, str]:
        """Why light ranks ended."""
        return {int(path.stem): path.read_text() for path in (self.run / "light").glob("*.end")}

    def lines(self) -> list[dict[str, Any]]:
        path = self.run / "telemetry.jsonl"
        whole = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in whole if line.endswith("\n")]

    def losses(self) -> dict[int, tuple[float, float | None, float]]:
        """By step, of its last line: loss, validation loss, gradient norm."""
        return {
            line["step"]: (line["loss"], line["validation_loss"], line["grad_norm"]) for line in self.lines()
        }

    def read(self, name: str) -> dict[str, Any]:
        return json.loads((self.run / name).read_text())

    def send(self, number: signal.Signals) -> None:
        """To launch.sh alone."""
        assert self.process is not None
        self.process.send_signal(number)


def _light_project(folder: Path) -> Path:
    """A project like ours, whose train.py trains nothing."""
    project = folder / "project"
    if not project.exists():
        project.mkdir()
        for name in ("launch", "planner", "runtime", "model"):
            (project / name).symlink_to(PROJECT / name)
        (project / "train.py").write_text(LIGHT_RANK)
    return project


def until(is_so: Callable[[], bool], timeout: float, check: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        check()
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.05)
