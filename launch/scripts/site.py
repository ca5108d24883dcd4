"""Site of a launch: modules and prologue of its scripts, and the container that the ranks run in."""

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePath

from launch.scripts.template import LaunchPaths
from planner import Plan, Problem
from planner.strategy.schema import Strategy

_GLOB = re.compile(r"[*?\[]")


def site_conditions(plan: Plan) -> set[str]:
    """`site`: modules or a prologue; `modules`, `prologue`; `container`, and its engine."""
    launch = plan.strategy.launch
    found = {
        "modules": bool(launch.modules),
        "prologue": bool(launch.prologue),
        "site": bool(launch.modules or launch.prologue),
        "container": launch.container.image is not None,
        launch.container.engine: launch.container.image is not None,
    }
    return {name for name, holds in found.items() if holds}


def site_values(plan: Plan) -> dict[str, str]:
    """Modules quoted for the shell; the prologue as it is written, since it is shell."""
    launch = plan.strategy.launch
    return {"MODULES": shlex.join(launch.modules), "PROLOGUE": "\n".join(launch.prologue)}


def rank_python(plan: Plan, paths: LaunchPaths) -> str:
    """The ranks' interpreter: in a container `python`, unless launch.python names one."""
    launch = plan.strategy.launch
    return "python" if launch.container.image is not None and launch.python is None else paths.python


def container_values(plan: Plan, paths: LaunchPaths, variables: tuple[str, ...]) -> dict[str, str]:
    """Image, mounts and options of both engines, quoted for the shell."""
    container = plan.strategy.launch.container
    mounts = list(_mounts(plan.strategy, paths))
    return {
        "IMAGE": shlex.quote(str(container.image)),
        "MOUNTS": shlex.quote(",".join(mounts)),
        "CONTAINER_ENV": ",".join(variables),
        "NV": "" if plan.strategy.cluster.gpu.is_cpu else " --nv",
        "BINDS": "".join(f" --bind {shlex.quote(mount)}" for mount in mounts),
    }


def shared_paths(strategy: Strategy, paths: LaunchPaths) -> tuple[PurePath, ...]:
    """Project, folder of runs and data: what every rank reads or writes, the outermost folders only."""
    data = strategy.data
    named: list[str] = [] if data.tokenizer is None else [data.tokenizer]
    for path in (data.path, *(part.path for part in data.mix or ())):
        named += [path] if isinstance(path, str) else path or ()
    found = {paths.project, paths.run.parent}
    for name in named:
        full = paths.project / name
        parts = [number for number, part in enumerate(full.parts) if _GLOB.search(part)]
        found.add(type(full)(*full.parts[: parts[0]]) if parts else full)
    return tuple(path for path in sorted(found) if not any(other in path.parents for other in found))


def container_problems(plan: Plan, paths: LaunchPaths) -> Iterator[Problem]:
    """Paths that an engine would split at its separators."""
    launch = plan.strategy.launch
    if launch.container.image is None:
        return
    for path in shared_paths(plan.strategy, paths):
        if re.search("[,:]", str(path)):
            yield _split("output.folder" if path == paths.run.parent else None, str(path), "a comma or colon")
    for number, mount in enumerate(launch.container.mounts):
        if "," in mount:
            yield _split(f"launch.container.mounts[{number}]", mount, "a comma")


def remote_site_problems(plan: Plan, launcher: str, *, is_local: bool) -> Iterator[Problem]:
    """What a launcher does not do of the site's keys; over ssh no line of a prologue runs on another host."""
    launch = plan.strategy.launch
    keys = {
        "launch.container.image": launch.container.image is not None,
        "launch.modules": bool(launch.modules) and not is_local,
        "launch.prologue": bool(launch.prologue) and not is_local,
    }
    if launcher == "torchrun":
        keys = dict.fromkeys(("launch.modules", "launch.prologue"), False) | {
            "launch.container.image": launch.container.image is not None
        }
    for key, is_lost in keys.items():
        if is_lost:
            yield Problem(
                code="SW439",
                path=key,
                found=f"the script for {launcher} would start the ranks without {key}",
                expected="a launcher that applies it: slurm"
                + (" or kubernetes" if key == "launch.container.image" else ", kubernetes or torchrun"),
                fix=f"add --for slurm to the command, or remove {key}",
            )


def _mounts(strategy: Strategy, paths: LaunchPaths) -> Iterator[str]:
    """Each at the same path inside; those of the strategy may have another one."""
    for path in shared_paths(strategy, paths):
        yield f"{path}:{path}"
    for mount in strategy.launch.container.mounts:
        yield mount if ":" in mount else f"{mount}:{mount}"


def _split(path: str | None, found: str, what: str) -> Problem:
    return Problem(
        code="SW441",
        path=path,
        found=f"the container engine would split the mount {found!r} at {what}",
        expected="a path without it",
        fix="use another path, or a symbolic link to it",
    )
