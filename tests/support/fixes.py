"""Fixes applied as they are printed: to the text of a strategy, to its overrides, to its hostfile."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from planner import Problem, Strategy, StrategyError, loads
from planner.strategy.parallel import degrees_of
from planner.yaml12 import Document
from planner.yaml12_writer import flow_yaml

# A quoted scalar of YAML: with escapes, or with doubled quotes.
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""", re.DOTALL)
_INSTEAD = re.compile(r" instead of [\w.<-]+(: |$|;|,| \(|$)")
_KEY = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


class NotMechanicalError(Exception):
    """A fix that leaves a choice to its reader."""


@dataclass(frozen=True)
class Written:
    """What a user has: a strategy as plain data, overrides, and a hostfile."""

    data: dict[str, Any]
    overrides: tuple[str, ...] = ()
    hostfile: Path | None = None

    @staticmethod
    def of(text: str, *overrides: str, hostfile: Path | None = None) -> "Written":
        root = Document(text, None).root
        assert root is not None
        return Written(root.plain(), overrides, hostfile)

    def load(self) -> Strategy:
        return loads(flow_yaml(self.data), self.overrides, file="f.yaml")

    def problems(self) -> tuple[Problem, ...]:
        try:
            self.load()
        except StrategyError as error:
            return error.problems
        return ()


def apply_fix(written: Written, problem: Problem) -> tuple[Written, tuple[str, ...]]:
    """The same with the problem's fix applied, and the dotted keys that it writes.

    Raises:
        NotMechanicalError: if the fix asks for something that only its reader knows.
    """
    if written.hostfile is not None and problem.file == str(written.hostfile):
        _mend_line(written.hostfile, problem)
        return written, ()
    if problem.override is not None:
        return _mend_override(written, problem)
    data = _copy(written.data)
    keys = _mend(data, _split(problem.path or ""), problem.fix, ())
    return replace(written, data=data), keys


def apply_all(written: Written, problems: tuple[Problem, ...]) -> tuple[Written, frozenset[str]]:
    """The same with every fix of one answer applied, and the keys that these write.

    Raises:
        NotMechanicalError: as apply_fix.
    """
    keys: set[str] = set()
    for problem in problems:
        written, more = apply_fix(written, problem)
        keys |= set(more)
    return written, frozenset(keys)


def settle(written: Written, most: int = 40) -> Strategy:
    """The strategy after every fix, one after the other; each answer has nothing at the places of its fix."""
    for _ in range(most):
        problems = written.problems()
        if not problems:
            return written.load()
        # A command to run instead is no edit.
        problem = next(p for p in problems if not p.fix.startswith("python -m launch"))
        written, keys = apply_fix(written, problem)
        after = written.problems()
        places = {problem.path, *keys}
        if problem.file is not None and problem.file != "f.yaml":
            assert (problem.file, problem.line) not in {(p.file, p.line) for p in after}, (
                f"{problem}\n{after[0]}"
            )
            continue
        same = [again for again in after if again.path in places]
        assert not same, f"{problem}\nthen\n{same[0]}"
    raise AssertionError(f"{most} fixes were not enough: {problems[0]}")


def _mend_override(written: Written, problem: Problem) -> tuple[Written, tuple[str, ...]]:
    """An override is replaced by the ones that the fix writes, or its value is mended."""
    if match := re.match(r"set ([a-z_]+(?:\.[a-z_]+)+) to (.+)", problem.fix):
        target, found = match.group(1), flow_yaml(_plain(_split_commas(match.group(2))[0]))
        same = [i for i, text in enumerate(written.overrides) if text.partition("=")[0] == target]
        at = same[0] if same else len(written.overrides)
        return _override(written, at, [f"{target}={found}"]), (target,)
    place = next(i for i, text in enumerate(written.overrides) if text[:199] == str(problem.override)[:199])
    others = (*written.overrides[:place], *written.overrides[place + 1 :])
    key, _, value = written.overrides[place].partition("=")
    if problem.fix.startswith("write ") and re.match(r"write '?[\w.]+=", problem.fix):
        lexer = shlex.shlex(problem.fix.removeprefix("write "), posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        texts = []
        try:
            for token in lexer:
                if "=" not in token:
                    break
                texts.append(token)
                # A hint may follow without a space: `write a=1, or …`, `write a=false: YAML 1.2 …`.
                if token.endswith((",", ":")) and not problem.fix.startswith(f"write '{token}"):
                    texts[-1] = token[:-1]
                    break
        except ValueError:
            pass  # an apostrophe in the hint
        assert texts, problem.fix
        return _override(written, place, texts), tuple(t.partition("=")[0] for t in texts)
    if re.match(rf"leave ({re.escape(key)}|this override) out", problem.fix):
        return replace(written, overrides=others), ()
    left = re.match(r"(?:leave|remove) (\w+)", problem.fix)
    if left is not None and left.group(1) in key.split("."):
        return replace(written, overrides=others), ()
    root = Document(value, None).root
    held: dict[str, Any] = {}
    place_of = held
    *before, last = key.split(".")
    for name in before:
        place_of = place_of.setdefault(name, {})
    place_of[last] = root.plain() if root is not None else None
    keys = _mend(held, _split(problem.path or ""), problem.fix, tuple(key.split(".")))
    for name in key.split("."):
        held = held[name]
    return _override(written, place, [f"{key}={flow_yaml(held)}"]), keys


def _override(written: Written, place: int, texts: list[str]) -> Written:
    """The override at a place replaced by others; of the rest, those of the same keys are left out."""
    keys = {text.partition("=")[0] for text in texts}
    before, after = (
        tuple(text for text in part if text.partition("=")[0] not in keys)
        for part in (written.overrides[:place], written.overrides[place + 1 :])
    )
    return replace(written, overrides=(*before, *texts, *after))


def _mend(
    data: dict[str, Any], path: tuple[str | int, ...], fix: str, under: tuple[str, ...]
) -> tuple[str, ...]:
    """Applies a fix to plain data, in place; `under`: the only place that may be changed."""
    section, key = path[:-1], path[-1] if path else ""
    if match := re.match(r"(?:leave|remove) (\S+?)(?: out)?(?:[:;,]|$)", fix):
        if match.group(1) != str(key):
            raise NotMechanicalError(fix)
        _parent(data, path).pop(key)
        return ()
    if match := re.match(r"write (\S+) instead of (\S+?)(?::.*)?$", fix):
        parent = _parent(data, path)  # a name alone: the value goes with it
        value = parent.pop(key)
        _put(data, _target(match.group(1), section), value)
        return (match.group(1),)
    if match := re.match(r"write (.+) in its place", fix):
        items = list(_value(data, section))
        items[int(key)] = _plain(match.group(1))
        _put(data, section, tuple(items))
        return ()
    if match := re.match(r"(write|add|set) (.+)", fix):
        verb, rest = match.groups()
        replaces = " instead of " in rest
        if verb == "set":
            name, _, value = rest.partition(" to ")
            rest = f"{name}: {value}"
        assignments = dict(_assignments(rest.partition(" instead of ")[0]))
        if not assignments:
            raise NotMechanicalError(fix)
        if replaces:
            _parent(data, path).pop(key)
        for name, value in assignments.items():
            target = _target(name, section)
            if target[: len(under)] != under:
                raise NotMechanicalError(fix)
            _put(data, target, value)
        return tuple(".".join(map(str, _target(name, section))) for name in assignments)
    raise NotMechanicalError(fix)


def _assignments(text: str) -> Any:
    """`a: 1, b.c: [2, 3] (hint), or another` as pairs; parts that are no assignment end the list."""
    for part in _split_commas(text):
        match = re.match(r"([A-Za-z_][\w.-]*): (.*)", part.strip(), re.DOTALL)
        if match is None:
            return
        name, value = match.groups()
        if value.endswith(" at the top level"):
            name, value = f"/{name}", value.removesuffix(" at the top level")
        yield name, _plain(value)


def _split_commas(text: str) -> list[str]:
    parts, depth, start, quoted_to = [], 0, 0, 0
    for i, letter in enumerate(text):
        if i < quoted_to:
            continue
        if letter in "\"'" and (i == 0 or not text[i - 1].isalnum()):
            quoted = _QUOTED.match(text, i)
            quoted_to = len(text) if quoted is None else quoted.end()
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif not depth and text[i : i + 2] == ", ":
            parts.append(text[start:i])
            start = i + 2
    return [*parts, text[start:]]


def _plain(text: str) -> Any:
    """The value at the beginning of a text, without the hint behind it."""
    cut = re.split(r" \(|; | with |: [A-Za-z]|, or ", text)[0] if text[:1] not in "[{\"'" else text
    if text[:1] in "[{":
        depth = 0
        for i, letter in enumerate(text):
            depth += (letter in "[{") - (letter in "]}")
            if not depth:
                cut = text[: i + 1]
                break
    elif text[:1] in "\"'":
        quoted = _QUOTED.match(text)
        assert quoted is not None, f"{text} has no closing quote"
        cut = quoted[0]
    root = Document(cut, None).root
    return root.plain() if root is not None else None


def _target(name: str, section: tuple[str | int, ...]) -> tuple[str | int, ...]:
    if name.startswith("/"):
        return (name[1:],)
    return _split(name) if "." in name else (*section, name)


def _split(path: str) -> tuple[str | int, ...]:
    return tuple(int(index) if index else key for index, key in _KEY.findall(path))


def _parent(data: dict[str, Any], path: tuple[str | int, ...]) -> Any:
    return _value(data, path[:-1])


def _value(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def _put(data: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    place: Any = data
    for key, inside in pairwise(path):
        kind = (tuple, list) if isinstance(inside, int) else dict
        if isinstance(place, dict) and not isinstance(place.get(key), kind):
            # A short name is a section; anything else in the place of one has a Problem of its own.
            place[key] = degrees_of(place.get(key)) or {}
        place = place[key]
    place[path[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value


def _mend_line(hostfile: Path, problem: Problem) -> None:
    """A line of a hostfile is replaced; its lines keep their numbers, so new ones go to the end."""
    lines = hostfile.read_text(encoding="utf-8").splitlines()
    assert problem.line is not None
    at = problem.line - 1
    if problem.fix.startswith("remove this line"):
        lines[at] = ""
    elif match := re.match(r"write (\d+) lines: (.*)", problem.fix):
        if command := re.match(r"those that this prints: (printf '[^']*'(?: [\w.@:{},-]+)+)", match.group(2)):
            printed = subprocess.run(["bash", "-c", command.group(1)], capture_output=True, check=True)
            shown = printed.stdout.decode().splitlines()
        else:
            shown = re.split(r"; ", match.group(2).partition(" (")[0])
        assert len(shown) == int(match.group(1)), problem.fix
        lines[at] = ""
        lines += shown
    elif match := re.match(r"write (\S+ slots=\d+)", problem.fix):
        lines[at] = match.group(1)
    else:
        raise NotMechanicalError(problem.fix)
    hostfile.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_fix(fix: str) -> Path:
    """Runs the command that the fix of a data file prints, and returns the file or folder that it names.

    What it would install is installed here, and `python` is this one.
    """
    given, separator, named = fix.partition(", then write data.path=")
    assert separator, fix
    _run(re.sub(r"^[^:]*: ", "", given, count=1))
    return Path(shlex.split(named)[0])


def _run(command: str) -> None:
    command = re.sub(r"pip install [\w-]+ && ", "", command)
    command = re.sub(r"\bpython -", f"{shlex.quote(sys.executable)} -", command)
    subprocess.run(["bash", "-c", command], check=True, timeout=60)


def follow_data_fix(fix: str) -> tuple[str, ...]:
    """Runs the command of a data file's fix, if it has one, and returns the overrides to write."""
    command, then, named = fix.partition(", then write ")
    if then:
        _run(re.sub(r"^[^:]*: ", "", command, count=1))
    else:
        named = fix.removeprefix("write ")
        assert named != fix, fix
    words = shlex.split(named.replace(", or leave the file out of data.path", ""))
    overrides = tuple(word for word in words if re.match(r"[a-z_.]+=", word))
    assert overrides, fix
    return overrides
