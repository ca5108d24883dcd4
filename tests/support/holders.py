"""Another process that holds a run."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.launching import ROOT

HOLDER = """
import sys
from pathlib import Path
from runtime.startup.claims import claim
claim(Path(sys.argv[1]), {})
print("claimed", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def other_process_that_holds(run: Path) -> Iterator[subprocess.Popen[str]]:
    """The process has claimed the run, and lives until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
    finally:
        process.kill()
        process.communicate()
