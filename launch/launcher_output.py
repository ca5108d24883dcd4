"""Standard error of DeepSpeed's launcher: shown to people, and searched for the reason why a launch failed.

`python -m launch.launcher_output FOLDER [HOSTS]`, in launch.sh. Everything is passed on; but a traceback of
DeepSpeed's programs becomes one Problem (with SWITCHYARD_DEBUG=1 it is shown), and C++ stacks are left out.
In FOLDER, beside the attempt's link to the interpreter, it writes `host-ended` once the launcher of a host
has ended with an error, and `reason` at the end of its input: each a Problem as JSON, or empty where the
disk takes no more and the Problem was shown.

launch.sh waits for its end, so the planner, which takes a second to import, is imported only for a Problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.problems import Problem

HOST_ENDED, REASON = "host-ended", "reason"
_GUARDED = "guarded"  # launch.sh writes it when it ends the ranks for `host-ended`
# pdsh 2.34 prints this for a host whose command failed or whose connection broke, and waits for the others.
_ENDED = re.compile(r"pdsh@\S+: (?P<host>\S+): ssh exited with exit code (?P<code>\d+)$")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_FRAME = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+)')
_CPP_STACK = re.compile(r"(frame #\d+: |Exception raised from |C\+\+ CapturedTraceback:)")
# What pdsh prints when DeepSpeed's runner, which is ending, interrupts it.
_INTERRUPTED = re.compile(r"pdsh@\S+: +(interrupt \(|\(\^Z within|\S+: command in progress)")
_CODE = re.compile(r"\bSW\d{3}\b")
_NOISE = re.compile(r"\[(INFO|WARNING)\]|\bWarning: |pdsh@\S+: ")
_SSH_FAILED = 255


def main(arguments: Sequence[str]) -> int:
    """Reads stdin until all who write to it have ended."""
    if len(arguments) not in (1, 2):
        print(
            "usage: python -m launch.launcher_output FOLDER [HOST,HOST…] <LAUNCHER'S OUTPUT", file=sys.stderr
        )
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # launch.sh and the ranks answer them, and what they say is shown
    output = LauncherOutput(
        folder=Path(arguments[0]),
        hosts=tuple(arguments[1].split(",")) if len(arguments) > 1 else (),
        is_debugged=bool(os.environ.get("SWITCHYARD_DEBUG")),
    )
    for line in sys.stdin.buffer:
        for shown in output.take(line.decode(errors="replace").rstrip("\n")):
            _show(shown)
    for shown in output.end():
        _show(shown)
    return 0


@dataclass
class _Speaker:
    """One host, or the launcher on this machine (""): a traceback that has begun, and what it said last."""

    traceback: list[str] = field(default_factory=list)
    place: str = ""
    last: str = ""
    last_problem: str = ""

    @property
    def said(self) -> str:
        return self.last_problem or self.last


@dataclass(kw_only=True)
class LauncherOutput:
    """What was said so far. `take` and `end` yield the lines to be shown."""

    folder: Path
    hosts: tuple[str, ...] = ()
    is_debugged: bool = False
    _speakers: dict[str, _Speaker] = field(default_factory=dict)
    _reason: Problem | None = None
    _ended_host: Problem | None = None
    _is_end_shown: bool = False
    _shown: Problem | None = None  # because it could not be written

    def take(self, line: str) -> Iterator[str]:
        host, text = self._split(line)
        speaker = self._speakers.setdefault(host, _Speaker())
        if (ended := _ENDED.match(line)) is not None:
            yield line
            self._note_end(ended["host"], int(ended["code"]))
        elif text.startswith(_TRACEBACK) or (speaker.traceback and text.startswith((" ", *_CHAINED))):
            speaker.traceback.append(line)
            if (frame := _FRAME.match(text)) is not None:
                speaker.place = f"{Path(frame['file']).name}:{frame['line']}"
            if self.is_debugged:
                yield line
        elif speaker.traceback and not text.strip():
            if self.is_debugged:
                yield line
        elif speaker.traceback:
            yield from self._end_traceback(host, text)
        elif (_CPP_STACK.match(text) or _INTERRUPTED.match(text)) and not self.is_debugged:
            return
        else:
            if self._ended_host is not None and text == str(self._ended_host).splitlines()[0]:
                self._is_end_shown = True
            if _CODE.search(text):
                speaker.last_problem = text
            elif text.strip() and not text.startswith(" ") and not _NOISE.search(text):
                speaker.last = text
            yield line

    def end(self) -> Iterator[str]:
        """At the end of the input: a traceback without its last line, and the reason for whoever asks."""
        for host, speaker in list(self._speakers.items()):
            if speaker.traceback:
                yield from self._end_traceback(host, "an exception without a message")
        # Rank 0 says it, unless pdsh, which passes it on, ended before.
        if self._ended_host is not None and not self._is_end_shown and (self.folder / _GUARDED).exists():
            yield str(self._ended_host)
        if self._reason is None:
            own = self._speakers.get("", _Speaker())
            if own.said:
                self._reason = _launcher_failed("", own.said)
        if self._reason is not None:
            self._write(REASON, self._reason)

    def _split(self, line: str) -> tuple[str, str]:
        """The host that pdsh names, "" for the launcher here; and its text."""
        host, colon, text = line.partition(": ")
        return (host, text) if colon and host in self.hosts else ("", line)

    def _end_traceback(self, host: str, text: str) -> Iterator[str]:
        """The exception's own line."""
        speaker = self._speakers[host]
        speaker.last = f"{text} ({speaker.place})" if speaker.place else text
        speaker.traceback.clear()
        if self.is_debugged:
            yield f"{host}: {text}" if host else text
        problem = _launcher_failed(host, speaker.last)
        if not host and self._reason is None:
            self._reason = problem
        yield str(problem)

    def _note_end(self, host: str, code: int) -> None:
        if self._ended_host is not None:
            return  # the others ended after it, and because of it
        said = self._speakers.get(host, _Speaker()).said
        if code == _SSH_FAILED:
            found = f"the connection to {host} was lost, or its ssh failed" + (f": {said}" if said else "")
            fix = (
                f"repair {host}, or replace it in cluster.hosts; then start launch.sh again: the run resumes"
            )
        else:
            found = f"the ranks of {host} ended with exit code {code}" + (
                f": {said}" if said else " and said nothing"
            )
            fix = (
                f"repair that on {host} (`python -m launch preflight STRATEGY` checks every host), then "
                "start launch.sh again: the run resumes"
            )
        from planner.problems import Problem

        problem = Problem(code="SW445", found=found, expected="ranks that run until the last step", fix=fix)
        self._reason = self._ended_host = problem
        self._write(HOST_ENDED, problem)

    def _write(self, name: str, problem: Problem) -> None:
        from planner.files import replace

        try:
            replace(self.folder / name, json.dumps(problem.as_json()).encode())
        except OSError as error:
            if self._shown is not problem:
                _show(f"launch.sh: {self.folder / name}: {error.strerror or error}")
                _show(str(problem))
                self._shown = problem
            # launch.sh has to know that there is one; a full disk may still take an empty file.
            with contextlib.suppress(OSError):
                (self.folder / name).touch()


def _launcher_failed(host: str, said: str) -> Problem:
    from planner.problems import Problem

    where = f" on {host}" if host else ""
    return Problem(
        code="SW446",
        found=f"a program that starts the ranks{where} failed: {said}",
        expected="programs that start the ranks and stay with them",
        fix=next((fix for sign, fix in _FIXES.items() if sign in said), _OTHER_FIX),
    )


_OTHER_FIX = "correct what it names, then start launch.sh again; SWITCHYARD_DEBUG=1 shows its traceback"
_FIXES: Mapping[str, str] = {
    "No module named": "install this project into the environment of launch.python on every host "
    "(pip install --constraint constraints.txt -e .), then start launch.sh again",
    "not installed": "install it on the machine that runs launch.sh, then start launch.sh again",
    "No space left": "free space in the run folder and in /tmp of that host, then start launch.sh again",
    "Read-only file system": "make the folder writable on that host, then start launch.sh again",
    "Permission denied": "make it accessible to the user on that host, then start launch.sh again",
}


def _show(line: str) -> None:
    if not line.replace("\t", "").isprintable():  # of a Problem, which has several lines, or of any program
        from planner.terminal_text import escape_controls

        line = escape_controls(line)
    with contextlib.suppress(OSError):  # the terminal is gone; what was said is still noted
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
