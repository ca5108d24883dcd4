"""Templates of launch.sh and launch.sbatch, and how they are filled; shellcheck reads them unfilled.

In a template `@NAME@` is a value, `#@if CONDITION`, `#@else` and `#@end` select lines, `source FILE.in`
includes another template, and any other line that begins with `#@` is a comment of the template.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from launch.scripts.env_file import OPERATOR_VARIABLES
from planner import Plan

TEMPLATES = Path(__file__).parent / "templates"
# The files of a launch that launch.sh checks: each contains the plan's fingerprint.
STAMPED = ("strategy.yaml", "plan.json", "ds_config.json", "hostfile", "env")


@dataclass(frozen=True, kw_only=True)
class LaunchPaths:
    """Paths of a launch, the same on every host, and its program.

    project: the folder of train.py. run: the run's folder. python: the interpreter, a path or a name.
    program: what every rank runs, as the runner's arguments; it writes done.json or failed.json to `run`.
    """

    project: Path
    run: Path
    python: str
    ssh_config: Path | None
    program: tuple[str, ...] = ("train.py",)


def fill(name: str, conditions: Set[str], values: Mapping[str, str]) -> str:
    """The template's text with lines selected by `conditions` and `values` inserted."""
    lines = "\n".join(_selected_lines(name, conditions))
    values = {"SCRIPT": name.removesuffix(".in"), **values}
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], lines) + "\n"


def _selected_lines(name: str, conditions: Set[str]) -> Iterator[str]:
    shown = [True]
    for line in (TEMPLATES / name).read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "#@if":
            shown.append(rest in conditions)
        elif word == "#@else":
            shown[-1] = not shown[-1]
        elif word == "#@end":
            shown.pop()
        elif not all(shown) or word.startswith("#@"):
            continue
        elif word == "source" and rest.endswith(".in"):
            yield from _selected_lines(rest, conditions)
        else:
            yield line


def common_values(plan: Plan, paths: LaunchPaths) -> dict[str, str]:
    """The values that both scripts use; everything that users write is quoted for the shell."""
    hosts, world = len(plan.hosts), plan.world_size
    return {
        "NAME": plan.strategy.name,
        "RANKS": f"{world} rank{'s' if world > 1 else ''} on {hosts} host{'s' if hosts > 1 else ''}",
        "WORLD": str(world),
        "PLAN": plan.fingerprint,
        "PROJECT": shlex.quote(str(paths.project)),
        "RUN": shlex.quote(str(paths.run)),
        "PYTHON": shlex.quote(paths.python),
        "FILES": " ".join(STAMPED),
        "OPERATOR": " ".join(OPERATOR_VARIABLES),
    }


def common_conditions(paths: LaunchPaths) -> set[str]:
    """`odd_paths`: a path holds what a shell would expand outside of quotes."""
    is_odd = re.search(r"[$`]", f"{paths.project}{paths.run}{paths.python}")
    return {"odd_paths"} if is_odd else set()
