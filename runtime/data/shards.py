"""One Problem for many files with the same mistake, whose fix converts all of them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from planner.problems import Problem
from planner.units import plural
from runtime.data.corpus import Source
from runtime.data.naming import CONVERTED, Naming, converted_name, shell_path

Fault = tuple[Source, Problem]
THEN = ", then write "


def join_shards(faults: Sequence[Fault]) -> list[Problem]:
    """The Problems, of which those that one command mends in several files of a folder become one."""
    groups: dict[tuple[object, ...], list[Fault]] = {}
    for number, (source, problem) in enumerate(faults):
        key = _key(source, problem)
        groups.setdefault((number,) if key is None else key, []).append((source, problem))
    return [_joined(group) if len(group) > 1 else group[0][1] for group in groups.values()]


def _key(source: Source, problem: Problem) -> tuple[object, ...] | None:
    """What Problems of one mistake have in common; None for one that no command mends, or of a named file."""
    command, then, overrides = problem.fix.partition(THEN)
    if source.is_named or not then or _converted(source) not in command:
        return None
    others = tuple(word for word in shlex.split(overrides) if re.match(r"[a-z_.]+=", word))
    rest = tuple(word for word in others if not word.startswith(("data.path=", "data.mix=")))
    shape = (source.file.parent, source.part, source.entry)
    return (*shape, problem.code, problem.path, _with_variable(source, command), rest)


def _joined(group: Sequence[Fault]) -> Problem:
    source, problem = group[0]
    files = [each.file for each, _ in group]
    folder, suffix = source.file.parent, source.file.suffix
    command, _, after = problem.fix.partition(THEN)
    doing, _, run = _with_variable(source, command).partition(": ")
    same = [path for path in source.siblings if path.parent == folder and path.suffix == suffix]
    if set(same) == set(files) and suffix:
        listed = f"{shell_path(folder)}/*{suffix}"
    else:
        listed = " ".join(shell_path(file) for file in files)
    others = [path for path in source.siblings if path not in set(files)]
    naming: Naming = source.naming
    named = naming.override_with([f"{folder}/*{CONVERTED}", *others])
    then = after.replace(naming.override(converted_name(source.file)), named)
    return replace(
        problem,
        found=f"{problem.found}, and in {plural(len(files) - 1, 'other file')} of {folder}",
        fix=f"{doing}: for f in {listed}; do {run}; done{THEN}{then}",
    )


def _converted(source: Source) -> str:
    return shell_path(converted_name(source.file))


def _with_variable(source: Source, command: str) -> str:
    """The command with the shell's variable f in the place of the file. A glob names the new files, so that
    nothing has to be hidden."""
    mended = command.removesuffix(source.naming.hiding())
    return mended.replace(_converted(source), f'"$f"{CONVERTED}').replace(shell_path(source.file), '"$f"')
