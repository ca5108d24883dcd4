"""Programs of runtime/ that are started by name: their help, and stdout that takes no answer."""

import pytest

import runtime.attempts
import runtime.checkpoint.__main__
import runtime.generate
from tests.support.shell import run_in_shell

PROGRAMS = [runtime.attempts.__name__, "runtime.checkpoint", runtime.generate.__name__]


@pytest.mark.parametrize("program", PROGRAMS)
def test_short_help_is_0(program: str) -> None:
    done = run_in_shell(["-m", program, "-h"], "")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_answer_that_cannot_be_printed_is_one_line_and_3(program: str) -> None:
    done = run_in_shell(["-m", program, "--help"], ">/dev/full")
    assert (done.returncode, done.stderr) == (
        3,
        "SW497 the answer could not be printed: stdout: no space left on device\n",
    )
