"""Warm parent of an attempt on one host: `LINK -m runtime.warm_parent ENV_FILE LOG`.

The supervisor starts it. It imports what ranks import, once and before they are needed, and forks them when
the launcher starts them: runtime/process/fork_server.py. LINK is the attempt's own link to the interpreter,
by which the attempt's end finds this process too. It trains nothing and joins nothing, and ends with the
attempt or the supervisor.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.process.fork_server import ForkServer
from runtime.process.handover import socket_path
from runtime.process.library_environment import set_library_environment

# What a rank imports on its way to its second step, and what it imports only then.
MODULES = (
    "train",
    "planner.rules.not_implemented",
    "runtime.process.start",
    "runtime.startup.early_refusal",
    "runtime.startup.run_rank",
    "runtime.startup.consensus",
    "runtime.startup.open_run",
    "runtime.startup.training_run",
    "runtime.data",
    "runtime.parallel.groups",
    "runtime.profiling.phase_clock",
    "runtime.profiling.timestamps",
    "runtime.training.engine",
    "runtime.training.trainer",
    "runtime.training.training_model",
)
# What libraries import on that way by themselves: DeepSpeed 0.19.8 within `initialize`, torch's TensorBoard
# writer and the pictures on rank 0. Muon alone takes a second of each rank (measured 2026-11-30). Without one
# of them ranks start all the same.
LATE_MODULES = (
    "deepspeed.comm.mori",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "setuptools",
    "torch.utils.tensorboard",
)
_ENTERED = "SWITCHYARD_WARM_PARENT"


def main(arguments: Sequence[str]) -> int:
    """0 once nobody needs it; 1 if it cannot fork ranks: they then start by themselves."""
    if len(arguments) != 2:
        print("usage: LINK -m runtime.warm_parent ENV_FILE LOG", file=sys.stderr)
        return 2
    if _ENTERED not in os.environ:
        _enter(Path(arguments[0]), Path(arguments[1]))
    del os.environ[_ENTERED]
    environment = dict(os.environ)
    listener = listen(socket_path())
    if listener is None:
        return 0
    with listener:
        server = ForkServer(listener, environment)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, server.close)
        set_library_environment(is_cpu=environment.get("DS_ACCELERATOR") == "cpu")
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for GPUs without opening them
        import_all()
        start = server.serve()
    if start is None:
        with contextlib.suppress(OSError):
            socket_path().unlink()
            socket_path().parent.rmdir()
        return 0
    importlib.import_module(start.program).main(start.argv[1:])
    return 0


def import_all() -> None:
    """Everything that a rank would import."""
    for module in MODULES:
        importlib.import_module(module)
    for module in LATE_MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def _enter(env_file: Path, log: Path) -> None:
    """Starts this program again with the environment of the ranks, which libraries read when they load."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(_variables(env_file))
    os.environ[_ENTERED] = "1"
    os.execv(sys.executable, [sys.executable, "-m", "runtime.warm_parent", *sys.argv[1:]])


def _variables(env_file: Path) -> Iterator[tuple[str, str]]:
    for line in env_file.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


def listen(path: Path) -> socket.socket | None:
    """None if another parent of this attempt is on this machine already: names of hosts may be aliases."""
    _remove_old(path)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        return None
    listener.listen(1024)
    return listener


def _remove_old(path: Path) -> None:
    """Removes the sockets of parents that were killed."""
    pattern = f"{path.parent.name.rpartition('-')[0]}-*"
    for old in path.parent.parent.glob(f"{pattern}/{path.name}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            try:
                probe.connect(str(old))
            except ConnectionRefusedError:
                old.unlink()
                old.parent.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
