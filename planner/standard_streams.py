"""Standard streams of a program: an answer that could not be printed is code 3 and one line, no traceback.

stdout may be closed (`>&-`), on a full disk, or a pipe whose reader has ended. A reader such as `head` that
has enough of a text is no error; half a JSON object is one. Control characters are escaped here, whoever
prints them (terminal_text.py).
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from planner.exit_codes import ExitCode
from planner.terminal_text import escape_controls
from planner.version import VERSION


class _ClosedStream(io.TextIOBase):
    """A stream of a process that was started without it: what is written to it cannot be printed."""

    failure: OSError | None = None
    is_needed = True

    def write(self, text: str, /) -> int:
        _note_failure(self, OSError(errno.EBADF, "it is closed"))
        return len(text)


class _Stream(io.TextIOWrapper):
    """A stream that remembers what kept it from writing: a second flush succeeds, without the text."""

    failure: OSError | None = None
    is_needed = True

    def write(self, text: str, /) -> int:
        # A progress bar (tqdm's) begins by going back to the start of its line.
        start, rest = ("\r", text[1:]) if text.startswith("\r") else ("", text)
        self.write_as_is(start + escape_controls(rest))
        return len(text)

    def write_as_is(self, text: str) -> int:
        """For rich, whose colours are control characters."""
        try:
            return super().write(text)
        except OSError as error:
            _note_failure(self, error)
            return len(text)

    @property
    def rich_proxied_file(self) -> "_AsIs":
        """What a console of rich writes to in the place of this stream (rich 15.0, console.py:760)."""
        return _AsIs(self)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _note_failure(self, error)


class _AsIs:
    """A stream as rich uses it, without the escapes."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_as_is(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _note_failure(stream: _ClosedStream | _Stream, error: OSError) -> None:
    """Raises the error if the text is needed; else warns of the first one."""
    is_first = stream.failure is None
    stream.failure = error
    if stream.is_needed:
        raise error
    if is_first and stream is sys.stdout:
        reason = (error.strerror or str(error)).lower()
        print(f"SW964 stdout takes no text ({reason}): the run continues without it", file=sys.stderr)


def open_standard_streams() -> None:
    """Gives a process streams where it was started without them, and lets them remember a failure.

    A file that is opened later would get the number of a closed stream, and what is printed. What a stream
    cannot show (a name in Chinese on an ASCII terminal) is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if getattr(sys, f"__{name}__") is None:  # the process was started without it
            if stream is None:
                setattr(sys, name, _ClosedStream())
        elif type(stream) is io.TextIOWrapper:
            stream.flush()  # it stays open for whoever holds on to it
            options = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through")}
            raw = io.FileIO(stream.fileno(), "wb", closefd=False)
            setattr(sys, name, _Stream(io.BufferedWriter(raw), errors="backslashreplace", **options))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, (_Stream, _ClosedStream)):
        sys.stderr.is_needed = False  # there is nowhere to say that it failed


def open_streams_of_run() -> None:
    """The same for a training run, whose results are files: a full disk of its log does not end it."""
    open_standard_streams()
    if isinstance(sys.stdout, (_Stream, _ClosedStream)):
        sys.stdout.is_needed = False


def end_output(code: ExitCode, *, is_json: bool) -> ExitCode:
    """The exit code of a program once all that it has printed is written: `code`, or 3 with a line on stderr.

    To be called last, also after an error that may have come from printing.
    """
    failure = find_output_failure()
    if failure is not None:
        # Nothing more can be written, not even by the interpreter when it ends.
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == ExitCode.STOPPED:
            pass
        elif isinstance(failure, BrokenPipeError) and not is_json:
            code = ExitCode.OK
        else:
            code = ExitCode.INTERNAL_ERROR
            reason = (failure.strerror or str(failure)).lower()
            print(f"SW497 the answer could not be printed: stdout: {reason}", file=sys.stderr)
    sys.stderr.flush()
    return code


def find_output_failure() -> OSError | None:
    """What keeps stdout from taking all that was printed so far; None if nothing does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    failure: OSError | None = getattr(sys.stdout, "failure", None)
    return failure


def run_program(run: Callable[[], object]) -> NoReturn:
    """Runs a typer program, or prints its version; ends with its exit code, or with that of `end_output`."""
    open_standard_streams()
    code = ExitCode.OK
    try:
        if sys.argv[1:] == ["--version"]:
            print(f"switchyard {VERSION}")
        else:
            run()
    except SystemExit as end:
        code = ExitCode(end.code if isinstance(end.code, int) else ExitCode.OK)
    except OSError:
        if find_output_failure() is None:
            raise
    sys.exit(end_output(code, is_json="--json" in sys.argv))
