"""What is in the way of a run in its folder is told before training, and nothing is lost."""

import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Problem
from runtime.files.json_lines import LineFile, read_steps
from runtime.startup.claims import claim
from runtime.startup.outcome_files import write_done, write_failed
from runtime.startup.run_folder import find_folder_problems
from tests.support.fuzz import cases, quick_and_slow, within

NOBODY = 65534


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "not mounted")


def loop(path: Path) -> None:
    path.symlink_to(path)


def file(path: Path) -> None:
    path.write_text("kept")


def folder(path: Path) -> None:
    (path / "kept").mkdir(parents=True)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    """A socket, in a folder of a short name: the kernel takes 107 characters."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def refused(path: Path) -> None:
    """A folder in which nobody can make one, root neither."""
    path.symlink_to("/proc/self/task")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run as training leaves it."""
    run = tmp_path / "tiny"
    for name in ("checkpoints", "attempts", "ranks", "tensorboard"):
        (run / name).mkdir(parents=True)
    for name in ("done.json", "telemetry.jsonl", "ranks/rank-0000.jsonl", "strategy.yaml"):
        (run / name).touch()
    return run


def test_folder_of_a_run_and_no_folder_are_in_nobodys_way(run: Path) -> None:
    before = sorted(run.rglob("*"))
    assert find_folder_problems(run) == ()
    assert find_folder_problems(run.parent / "new" / "run") == ()
    assert sorted(run.parent.rglob("*")) == [run, *before], "nothing is made or changed"


def test_checkpoints_on_another_disk_are_in_nobodys_way(run: Path) -> None:
    (run.parent / "disk").mkdir()
    (run / "checkpoints").rmdir()
    (run / "checkpoints").symlink_to(run.parent / "disk")
    assert find_folder_problems(run) == ()


@pytest.mark.parametrize(
    ("name", "make", "what"),
    [
        ("checkpoints", dangling, "a dangling link"),
        ("checkpoints", loop, "a link to itself"),
        ("checkpoints", file, "a file, not a folder"),
        ("attempts", file, "a file, not a folder"),
        ("ranks", file, "a file, not a folder"),
        ("ranks/rank-0003.jsonl", folder, "a folder, not a file"),
        ("tensorboard", dangling, "a dangling link"),
        ("checkpoints/latest", pipe, "neither a file nor a folder"),
        ("checkpoints/latest", listening, "neither a file nor a folder"),
        ("checkpoints/latest.tmp", pipe, "neither a file nor a folder"),
        ("done.json.tmp", pipe, "neither a file nor a folder"),
        ("telemetry.jsonl", pipe, "neither a file nor a folder"),
        ("ranks/rank-0000.jsonl", listening, "neither a file nor a folder"),
        ("telemetry.jsonl", folder, "a folder, not a file"),
        ("done.json", folder, "a folder, not a file"),
        ("failed.json", loop, "a link to itself"),
        ("strategy.yaml", folder, "a folder, not a file"),
        ("tokenizer.json", lambda path: path.symlink_to("/dev/zero"), "neither a file nor a folder"),
    ],
)
def test_wrong_kind_is_one_problem_that_says_what_to_move(
    run: Path, name: str, make: Callable[[Path], None], what: str
) -> None:
    path = run / name
    if path.is_dir():
        path.rename(run.parent / "moved")
    path.unlink(missing_ok=True)
    make(path)
    (problem,) = find_folder_problems(run)
    assert (problem.code, problem.path) == ("SW643", "output.folder")
    assert f"{path} is {what}" in problem.found
    assert f"mv {path} {path}.aside" in problem.fix
    path.rename(f"{path}.aside")
    assert find_folder_problems(run) == (), "the fix is one"


@pytest.mark.parametrize(
    ("resume", "name", "start"),
    [
        ("auto", "done.json", "resumes from the newest checkpoint, step 1,200"),
        ("runs/other", "done.json", "resumes from the newest checkpoint, step 1,200"),
        ("auto", "checkpoints", "starts at step 1, because no checkpoint is seen"),
        ("require", "checkpoints", "is refused, because output.resume is require and no checkpoint is seen"),
        ("runs/other", "checkpoints", "starts from output.resume (runs/other)"),
        ("auto", "", "starts at step 1, because no checkpoint is seen"),
    ],
)
def test_fix_says_from_where_training_starts(run: Path, resume: str, name: str, start: str) -> None:
    for step in (100, 1200):
        (run / "checkpoints" / f"step-{step:08d}").mkdir()
    path = run / name if name else run
    path.rename(run.parent / "moved")
    loop(path)
    (problem,) = find_folder_problems(run, resume)
    assert problem.fix == (f"restore it, or move it aside: mv {path} {path}.aside; training then {start}")


@pytest.mark.parametrize(
    ("name", "mode", "code"),
    [
        ("checkpoints", 0o300, "SW644"),
        ("ranks", 0o500, "SW644"),
        ("checkpoints", 0o600, "SW644"),
        ("telemetry.jsonl", 0o200, "SW643"),
        ("ranks/rank-0000.jsonl", 0o400, "SW643"),
        ("tokenizer.json", 0o400, "SW643"),
    ],
)
def test_what_this_user_may_not_read_and_write_is_told_of(run: Path, name: str, mode: int, code: str) -> None:
    (run / "tokenizer.json").touch()
    for path in (run, *run.rglob("*")):
        os.chown(path, NOBODY if os.getuid() == 0 else -1, -1)
    (run / name).chmod(mode)
    assert [p.code for p in as_nobody(run)] == [code]
    (run / name).chmod(0o700)
    assert as_nobody(run) == ()


def as_nobody(run: Path) -> tuple[Problem, ...]:
    """What another user than root finds, whom permissions hold."""
    if os.getuid() != 0:
        return find_folder_problems(run)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(run)  # pytest's folders above are root's own
        os.setgroups([])
        os.setuid(NOBODY)
        os.write(writer, pickle.dumps(find_folder_problems(Path())))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        found: tuple[Problem, ...] = pickle.load(file)
    os.waitpid(child, 0)
    return found


def test_folder_that_takes_no_files_is_told_of(run: Path) -> None:
    (run / "checkpoints").rmdir()
    refused(run / "checkpoints")
    assert [(p.code, p.path) for p in find_folder_problems(run)] == [("SW644", "output.folder")]


def test_all_mistakes_are_told_at_once(run: Path) -> None:
    for name in ("checkpoints", "attempts"):
        (run / name).rmdir()
        dangling(run / name)
    assert [p.code for p in find_folder_problems(run)] == ["SW643", "SW643"]


@pytest.mark.parametrize("make", [dangling, loop, file])
def test_output_folder_itself_may_be_in_the_way(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "runs")
    assert [p.code for p in find_folder_problems(tmp_path / "runs" / "tiny")] == ["SW643"]
    assert [p.code for p in find_folder_problems(tmp_path / "runs")] == ["SW643"]


NAMES = [
    *("checkpoints", "attempts", "ranks", "tensorboard", "telemetry.jsonl", "done.json", "failed.json"),
    *(
        "checkpoints/latest",
        "checkpoints/latest.tmp",
        "failed.json.tmp",
        "strategy.yaml",
        "plan.json",
        "loss.png",
        "attempts/0001.json",
        "attempts/x.json",
    ),
    *(f"attempts/{'9' * 300}.json"[:200], "ranks/rank-0000.jsonl", "ranks/rank-x.jsonl", "journal.jsonl"),
]
MAKERS = {
    "dangling": dangling,
    "loop": loop,
    "file": file,
    "folder": folder,
    "refused": refused,
    "pipe": pipe,
}


@pytest.mark.parametrize("number", quick_and_slow(50, 1000))  # a case is a dozen fsyncs
def test_any_folder_is_told_of_or_can_be_used(tmp_path: Path, number: int) -> None:
    """Every fix that is printed is followed; then a run writes its files there."""

    @cases(number)
    @given(what=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(sorted(MAKERS)), max_size=5))
    def holds(what: dict[str, str]) -> None:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        for name, kind in sorted(what.items()):
            path = run / name
            if not os.path.lexists(path.parent):
                path.parent.mkdir(parents=True)
            if path.parent.is_dir() and not path.parent.is_symlink():
                MAKERS[kind](path)
        with within(5):
            for problem in find_folder_problems(run):
                assert problem.code in ("SW643", "SW644")
                place = problem.found.partition(" ")[0]
                Path(place).rename(f"{place}.aside")
            assert find_folder_problems(run) == ()
            attempt = claim(run, {})
            lines = LineFile(run / "ranks" / "rank-0000.jsonl")
            lines.append({"step": 1})
            lines.close()
            assert list(read_steps(run / "ranks" / "rank-0000.jsonl")) == [1]
            write_failed(run, code=3, problems=(), checkpoint=None, attempt=attempt)
            write_done(run, {"attempt": attempt, "step": 1})

    holds()
