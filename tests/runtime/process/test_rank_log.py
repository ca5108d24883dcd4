"""A rank's own log, and what of it reaches the launcher's terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RANK = """
import contextlib, os, sys
from planner.standard_streams import open_streams_of_run
from runtime.process.rank_log import open_rank_log
open_streams_of_run()
problem = open_rank_log(sys.argv[1], int(sys.argv[2]), "here")
print(problem or "result", flush=True)
print("reason", file=sys.stderr, flush=True)
with contextlib.suppress(OSError):
    os.write(2, b"from a library\\n")
sys.stdout.flush()
"""


def run(prefix: Path, rank: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-u", "-c", RANK, str(prefix), str(rank)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("rank", "stdout"), [(0, "result\n"), (1, "")])
def test_the_terminal_gets_results_of_rank_0_and_errors_of_all(
    tmp_path: Path, rank: int, stdout: str
) -> None:
    done = run(tmp_path / "job", rank)
    assert (done.stdout, done.stderr) == (stdout, "reason\n")
    assert (tmp_path / f"job_rank{rank}.log").read_text().splitlines() == [
        "result",
        "reason",
        "from a library",
    ]


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    done = run(tmp_path / "gone" / "job", 1)
    assert "SW609 output.folder: here cannot write the logs of its ranks to " in done.stdout
    assert f"{tmp_path / 'gone'}: no such file or directory" in done.stdout
    assert done.stderr == "reason\nfrom a library\n"


def test_a_full_disk_keeps_nothing_from_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "job_rank0.log").symlink_to("/dev/full")
    done = run(tmp_path / "job", 0)
    assert done.stdout == "result\n"
    assert "reason\n" in done.stderr
    assert "SW964 the log of this rank takes no text (no space left on device)" in done.stderr
