"""Program on each host that answers preflight's requests, one JSON object per line.

`python -m launch.remote.host_inspector` reads requests from stdin and ends with it, so that nothing is left
when the asking side is gone. It writes only its answer file, into the folder with the nonce. It runs on hosts
where nothing may be installed, so it imports only the standard library: a missing package must be reported,
not break the report. For the same reason it has its own atomic write instead of planner.files.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.remote.gpu_facts import NO_DRIVER, gpu_facts, xid_facts

PACKAGES = ("torch", "deepspeed", "transformers")
NONCE = "nonce"
# A network file system may show a new file some seconds late.
VISIBLE_WITHIN_S = 6.0


def main() -> int:
    """Answers until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer = {"time": time.time()} if do == "time" else facts(**request)
        print(json.dumps({"answer": do, **answer}), flush=True)
    return 0


def facts(
    *, output: str, shared: str, me: str, wants_gpus: bool, modules: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that preflight checks about this host.

    Args:
        output: the folder of runs, whose disk is checked; it may not exist yet.
        shared: a folder that the asking machine created, with the nonce in it.
        me: this host's name in the strategy.
        wants_gpus: whether the strategy uses GPUs.
        modules: names of modules that ranks import.
    """
    gpus = gpu_facts() if wants_gpus else None
    has_driver = gpus is not None and gpus["error"] != NO_DRIVER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "cpus": os.cpu_count(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": {name: _version(name) for name in PACKAGES},
        "missing_modules": [name for name in modules if not _is_there(name)],
        "cuda": _torch_cuda(),
        "nccl": _nccl(),
        "code": _code(),
        "gpus": gpus,
        "xid": xid_facts() if has_driver else None,
        "disk": _disk(Path(output)),
        "shm": _disk(Path("/dev/shm")),
        "open_files": {"soft": _limit(soft), "hard": _limit(hard)},
        "shared": _shared(Path(shared), me),
    }


def write_durably(path: Path, content: str) -> None:
    """Temporary file, fsync, rename, fsync of the folder: the steps that a checkpoint needs.

    Raises:
        OSError: with the step that failed.
    """
    step = "write"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            step = "fsync"
            os.fsync(file.fileno())
        step = "rename"
        temporary.replace(path)
        step = "fsync of the folder"
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, f"{step}: {(error.strerror or str(error)).lower()}") from None


def appears(path: Path, within_s: float = VISIBLE_WITHIN_S) -> str | None:
    """The text of a file that another host has written; None if it does not appear in time."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes a network file system refresh its cache
            return path.read_text(encoding="utf-8")
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)


def _shared(folder: Path, me: str) -> dict[str, Any]:
    """Whether the nonce is visible here and this host's answer could be written beside it."""
    nonce = appears(folder / NONCE)
    if nonce is None:
        return {"nonce": None, "error": None}
    try:
        write_durably(folder / f"{me}.answer", nonce)
    except OSError as error:
        return {"nonce": nonce, "error": error.strerror}
    return {"nonce": nonce, "error": None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    """Whether Python finds a module; it is not loaded, which takes seconds for some."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # None: a folder without code of that name


def _torch_cuda() -> str | None:
    """The CUDA version of the torch build, read from its source: importing it takes seconds."""
    try:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except (ImportError, OSError, ValueError):
        return None
    match = re.search(r"^cuda[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def _nccl() -> str | None:
    """The NCCL version of torch's wheel."""
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if re.fullmatch(r"nvidia-nccl-cu\d+", name):
            return distribution.version
    return None


def _code() -> dict[str, str | None]:
    try:
        from planner.plan.code_fingerprint import code_fingerprint

        return {"fingerprint": code_fingerprint(), "error": None}
    except Exception as error:  # whatever is missing here is what preflight reports
        return {"fingerprint": None, "error": f"{type(error).__name__}: {error}"}


def _disk(path: Path) -> dict[str, Any]:
    """The file system of a path, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return {"path": str(path), "total_bytes": None, "free_bytes": None, "error": error.strerror}
    return {"path": str(path), "total_bytes": usage.total, "free_bytes": usage.free, "error": None}


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


if __name__ == "__main__":
    sys.exit(main())
