"""Links of a supervised run's attempts: each attempt and its warm parents run through one of their own.

The supervisor makes the link before the attempt begins, so that warm parents for it can be started while the
attempt before it still trains.
"""

import os
import re
import time
from pathlib import Path

from launch.scripts.template import LaunchPaths
from launch.supervisor.commands import run_quietly
from planner import Problem, StrategyError

MAKE_TIMEOUT_S = 60.0


def job_prefix() -> str:
    """Begins the names of the jobs of this supervisor, and of no other."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{host}-{os.getpid()}"


def link_of_job(run_folder: Path, job: str) -> Path:
    return run_folder / "logs" / f"job-{job}" / "bin" / f"python-{job}"


def links_of_supervisor(run_folder: Path, prefix: str) -> list[Path]:
    """Those of a supervisor's jobs that are still there."""
    return sorted(path for path in run_folder.glob("logs/job-*/bin/python-*") if is_of(path, prefix))


def is_of(link: Path, prefix: str) -> bool:
    return link.name.startswith(f"python-{prefix}-")


def make_link(paths: LaunchPaths, job: str) -> Path:
    """
    Raises:
        StrategyError: if the run folder does not take it.
    """
    link = link_of_job(paths.run, job)
    if _run(paths, "make", link) != 0:
        problem = Problem(
            code="SW432",
            path="output.folder",
            found=f"cannot create the link {link}",
            expected="a run folder in which links can be created, and the interpreter of launch.python",
            fix=f"try it: cd {paths.project} && {paths.python} -m launch.job make {link}",
        )
        raise StrategyError([problem])
    return link


def remove_link(paths: LaunchPaths, link: Path) -> None:
    _run(paths, "remove", link)


def _run(paths: LaunchPaths, what: str, link: Path) -> int | None:
    command = ["env", "-C", str(paths.project), paths.python, "-m", "launch.job", what, str(link)]
    return run_quietly(command, MAKE_TIMEOUT_S)
