"""Job of a preflight: runtime.probe started by launch.sh on the plan's hosts, and the result of rank 0.

The files of this launch are in a folder that preflight creates and removes. Only a file written by rank 0,
never an exit code, says that the job is done.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from launch.remote.host_inspector import appears
from launch.scripts.launch_files import launch_files, write_together
from launch.scripts.template import LaunchPaths
from planner import Plan

MODULE = "runtime.probe"
RESULT_NAME, PROGRESS_NAME = "probe.json", "progress.txt"
# The measurements take under a minute; the rest is for imports, connections and groups.
TIMEOUT_S = 600.0
# Ranks end within a second of a stop signal; launch.sh waits up to 35 s on each host for those that do not.
_STOP_S = 60.0
_POLL_S = 0.2
# A shared file system may show the files of rank 0 some seconds late.
_VISIBLE_S = 5.0
_OUTPUT_LINES = 6
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_ABOVE = "what the ranks said above"  # launch.sh, which has a terminal in mind
_NOISE = ("[W", "Warning", "warn(", "INFO", "NOTE", "; log of rank 0: ")


class ProbeJobFailed(Exception):
    """The job ended without a result.

    Attributes:
        found: in which exchange, and what the ranks printed.
        fix: of the first reason that has one of its own; "" if none has.
    """

    def __init__(self, found: str, fix: str = "") -> None:
        self.found = found
        self.fix = fix
        super().__init__(found)


def job_files(plan: Plan, paths: LaunchPaths, folder: Path, modules: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of the launch, for a run in `folder`.

    Args:
        modules: what its ranks import before they exchange anything.

    Raises:
        StrategyError: with everything that prevents the launch.
    """
    return launch_files(plan, job_paths(paths, folder, modules), os.environ)


def job_paths(paths: LaunchPaths, folder: Path, modules: Sequence[str] = ()) -> LaunchPaths:
    """Paths of the job: a folder of its own, and another program."""
    names = ("--modules", ",".join(modules)) if modules else ()
    program = ("--module", MODULE, "--out", str(folder), *names)
    return replace(paths, run=folder, program=program)


async def run_job(
    files: dict[str, bytes], paths: LaunchPaths, folder: Path, on_progress: Callable[[str], object]
) -> dict[str, Any]:
    """The content of probe.json.

    Args:
        on_progress: called with what the ranks do next.

    Raises:
        ProbeJobFailed: if there is none.
    """
    write_together(folder, files)
    output = folder / "launch.log"
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(folder / "launch.sh"),
            cwd=paths.project,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # `_stop` passes on a terminal's Ctrl-C, once
            preexec_fn=_end_with_parent,
        )
    try:
        try:
            await asyncio.wait_for(_follow(process, folder / PROGRESS_NAME, on_progress), TIMEOUT_S)
        except asyncio.TimeoutError:
            await _stop(process)
            raise _failure(folder, f"the job did not end within {TIMEOUT_S:.0f} s") from None
    finally:
        await _stop(process)
    if not (folder / "failed.json").exists():
        await asyncio.to_thread(appears, folder / "done.json", _VISIBLE_S)
    result = _read(folder / RESULT_NAME)
    if not (folder / "done.json").exists() or result is None:
        raise _failure(folder, f"launch.sh ended with exit code {process.returncode}")
    return result


def _end_with_parent() -> None:
    """Stops launch.sh by a signal of the kernel when preflight is killed and cannot stop it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _follow(
    process: asyncio.subprocess.Process, progress: Path, on_progress: Callable[[str], object]
) -> None:
    """Reports each line of rank 0's progress until the process has ended."""
    seen = 0
    waiting = asyncio.ensure_future(process.wait())
    while True:
        done, _ = await asyncio.wait({waiting}, timeout=_POLL_S)
        lines = _lines(progress)
        for line in lines[seen:]:
            on_progress(line)
        seen = len(lines)
        if done:
            return


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Signals launch.sh, which signals every rank; if launch.sh must be killed, its guard ends the ranks."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_S)
    except (asyncio.TimeoutError, asyncio.CancelledError):  # the second: a second Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    deadline = time.monotonic() + _STOP_S
    while _in_session(process.pid) and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
    for left in _in_session(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _in_session(session: int) -> list[int]:
    """Running processes that launch.sh started on this machine: all are in the session that it leads."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def _failure(folder: Path, how: str) -> ProbeJobFailed:
    """Why a job has no result: its last exchange, the problems in failed.json, or else the last output."""
    parts = [how]
    progress = _lines(folder / PROGRESS_NAME)
    parts.append(f"during {progress[-1]}" if progress else "before the first exchange")
    problems = (_read(folder / "failed.json") or {}).get("problems", ())
    parts += [" ".join([*_code_of(problem), *str(problem["found"]).split()]) for problem in problems]
    if not problems:
        parts += _last_output(folder)
    fix = next((problem["fix"] for problem in problems if problem.get("fix")), "")
    return ProbeJobFailed(*(_without_folder(text, folder) for text in ("; ".join(parts), fix)))


def _code_of(problem: Mapping[str, Any]) -> Iterator[str]:
    if "code" in problem:
        yield str(problem["code"])


def _last_output(folder: Path) -> Iterator[str]:
    for path in sorted((*folder.glob("logs/*.log"), folder / "launch.log"), key=lambda p: p.name):
        said = [line for line in _lines(path) if not any(word in line for word in _NOISE)]
        if said:
            yield f"{path.name}: " + " | ".join(line.strip()[:200] for line in said[-_OUTPUT_LINES:])


def _without_folder(text: str, folder: Path) -> str:
    """Without the path of a folder that is gone when somebody reads this, and what would be done there."""
    text = re.sub("start (launch.sh|the launch) again(: the run resumes)?", "run preflight again", text)
    text = re.sub(rf"; see (failed\.json in {re.escape(str(folder))} and )?{_ABOVE}(, and logs/)?", "", text)
    return text.replace(str(folder), "the folder of this job")


def _lines(path: Path) -> list[str]:
    """The complete lines of a file that another process may be writing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [
        line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()
    ]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
