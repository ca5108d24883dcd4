"""What runs through a job's link is the job: found, asked and ended, and nothing else is."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch import job
from launch.job import make_link

WAIT = "import time; print(1, flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT


LISTENING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).touch())
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "logs/job-1/bin/python-1"
    make_link(made)
    yield made
    for process in job.processes(made):
        process.kill()


def start(link: Path, code: str = WAIT, *words: str) -> subprocess.Popen[str]:
    """A process that runs once it is returned."""
    process = subprocess.Popen([str(link), "-c", code, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    return process


def test_the_link_is_the_interpreter_with_its_packages(link: Path) -> None:
    code = "import psutil, sys; print(sys.executable, sys.version, psutil.__version__, sep='|')"
    said = subprocess.run([str(link), "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.rstrip("\n").split("|") == [str(link), sys.version, psutil.__version__]


def test_two_links_are_two_jobs(link: Path, tmp_path: Path) -> None:
    other = tmp_path / "logs/job-2/bin/python-2"
    make_link(other)
    mine, theirs = start(link), start(other)
    assert job.end(link) == []
    assert mine.wait(5) == -signal.SIGTERM
    assert theirs.poll() is None
    assert job.end(other) == []
    theirs.wait()


def test_ask_leaves_launchers_alone(link: Path) -> None:
    launcher = start(link, WAIT, "-m", "deepspeed.launcher.launch")
    rank = start(link)
    assert [process.pid for process in job.ranks(link)] == [rank.pid]
    job.ask(link)
    assert rank.wait(5) == -signal.SIGTERM
    assert launcher.poll() is None
    launcher.kill()
    launcher.wait()


@pytest.mark.parametrize("command", ["ask", "end"])
def test_a_rank_that_starts_later_finds_that_it_was_asked(link: Path, command: str) -> None:
    code = "from runtime.process.launcher_watch import was_asked_to_stop; print(was_asked_to_stop())"
    said = []
    for _ in range(2):
        said.append(
            subprocess.run([str(link), "-c", code], capture_output=True, text=True, check=True).stdout
        )
        assert job.main([command, str(link)]) == 0
    assert said == ["False\n", "True\n"]


@pytest.mark.parametrize("command", ["ask", "end"])
def test_what_a_warm_parent_has_forked_hears_of_it_once(link: Path, tmp_path: Path, command: str) -> None:
    """The process that the launcher has started passes the signal on to it."""
    module = tmp_path / "runtime"
    module.mkdir()
    (module / "__init__.py").touch()
    (module / "warm_parent.py").write_text(f"import pathlib\n{LISTENING}")
    note = tmp_path / "heard"
    forked = subprocess.Popen(
        [str(link), "-m", "runtime.warm_parent", str(note)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert forked.stdout is not None
    assert forked.stdout.readline() == "ready\n"
    if command == "ask":
        job.ask(link)
    else:
        assert job.end(link, grace_s=0.5) == []
    time.sleep(0.5)
    assert not note.exists()
    forked.kill()
    forked.communicate()


def test_what_does_not_listen_is_killed(link: Path) -> None:
    deaf = start(link, DEAF)
    began = time.monotonic()
    assert job.end(link, grace_s=0.5) == []
    assert time.monotonic() - began > 0.5
    assert deaf.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("command", ["make", "ask", "end", "remove"])
def test_only_an_attempts_own_folder_is_touched(command: str, tmp_path: Path) -> None:
    other = tmp_path / "mine/bin/python"
    other.parent.mkdir(parents=True)
    assert job.main([command, str(other)]) == 2
    assert other.parent.is_dir()


def test_remove_deletes_only_what_make_made(link: Path, tmp_path: Path) -> None:
    mine = link.with_name("mine")
    mine.touch()
    for name in (job.ASKED, "host-ended", "guarded", "reason"):
        link.with_name(name).touch()
    assert job.main(["remove", str(link)]) == 0
    kept = link.parents[1]
    assert sorted(path for path in kept.rglob("*")) == [link.parent, mine]

    environment = tmp_path / "job-mine"  # a virtual environment with the name of an attempt
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (environment / "pyvenv.cfg").touch()
    (environment / "lib64").symlink_to("lib")
    assert job.main(["remove", str(python)]) == 0
    assert sorted(path.name for path in environment.rglob("*")) == ["bin", "lib64", "python", "pyvenv.cfg"]


def test_the_folder_of_another_attempt_is_left_alone(link: Path) -> None:
    assert job.main(["make", str(link)]) == 1
    assert link.exists()


def test_commands_make_end_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "logs/job-1/bin/python-1"
    assert job.main(["make", str(link)]) == 0
    process = start(link)
    assert job.main(["ask", str(link)]) == 0
    assert process.wait(5) == -signal.SIGTERM
    assert job.main(["end", str(link)]) == 0
    assert job.main(["remove", str(link)]) == 0
    assert list((tmp_path / "logs").iterdir()) == []
    (tmp_path / "file").touch()
    assert job.main(["make", str(tmp_path / "file/job-1/bin/python")]) == 1
    assert "Not a directory" in capsys.readouterr().err
    assert job.main(["end"]) == 2
