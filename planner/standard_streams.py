"""Standard streams of a program: an answer that could not be printed is code 3 and one line, no traceback.

stdout may be closed (`>&-`), on a full disk, or a pipe whose reader has ended. A reader such as `head` that
has enough of a text is no error; half a JSON object is one.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from planner.exit_codes import ExitCode


class _ClosedStream(io.TextIOBase):
    """stdout of a process that was started without one: what is written to it cannot be printed."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        self.failure = OSError(errno.EBADF, "stdout is closed")
        raise self.failure


class _Stdout(io.TextIOWrapper):
    """stdout that remembers what kept it from writing: a second flush succeeds, without the text."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise


def open_standard_streams() -> None:
    """Gives a process streams where it was started without them, and lets stdout remember a failure.

    A file that is opened later would get the number of a closed stream, and what is printed. What a stream
    cannot show (a name in Chinese on an ASCII terminal) is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    out, err = sys.__stdout__, sys.__stderr__  # None where the process was started without
    if out is None:
        sys.stdout = _ClosedStream()
    elif type(sys.stdout) is io.TextIOWrapper:
        sys.stdout = sys.__stdout__ = _Stdout(  # type: ignore[misc]  # Final; its buffer is detached
            sys.stdout.detach(),
            encoding=out.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if err is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (until the end)
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


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
            with contextlib.suppress(OSError):
                print(f"SW497 the answer could not be printed: {reason}", file=sys.stderr)
    with contextlib.suppress(OSError):
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
    """Runs a typer program and ends the process with its exit code, or with that of `end_output`."""
    open_standard_streams()
    code = ExitCode.OK
    try:
        run()
    except SystemExit as end:
        code = ExitCode(end.code if isinstance(end.code, int) else ExitCode.OK)
    except OSError:
        if find_output_failure() is None:
            raise
    sys.exit(end_output(code, is_json="--json" in sys.argv))
