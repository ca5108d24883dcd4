"""Where the ranks of an attempt have their secret from, and who else can read it."""

import os
import stat
import threading
from pathlib import Path

import pytest

from launch.job import make_link, remove
from planner import StrategyError
from runtime.process.attempt_secret import key_of_user, secret_of_attempt

SECRET = "a text of twenty-one"


def secret(
    folder: Path, python: str = "python", *, is_on_one_host: bool = True, **environment: str
) -> str | None:
    return secret_of_attempt(
        environment, is_on_one_host=is_on_one_host, executable=str(folder / python), folder=folder
    )


def test_the_variable_wins(tmp_path: Path) -> None:
    assert secret(tmp_path, SWITCHYARD_SECRET=SECRET) == SECRET
    assert secret(tmp_path, is_on_one_host=False, SWITCHYARD_SECRET=SECRET) == SECRET


def test_a_secret_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        secret(tmp_path, SWITCHYARD_SECRET="secret")
    assert [(problem.code, problem.found) for problem in caught.value.problems] == [
        ("SW606", "SWITCHYARD_SECRET has 6 characters")
    ]


def test_ranks_of_one_host_have_the_same_which_only_their_user_reads(tmp_path: Path) -> None:
    found = secret(tmp_path)
    assert found is not None
    assert len(found) == 64
    assert secret(tmp_path) == found
    folder = tmp_path / f"switchyard-{os.getuid()}"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "key")] == [0o700, 0o600]
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_ranks_that_start_at_the_same_time_agree(tmp_path: Path) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(secret(tmp_path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_ranks_of_several_hosts_have_none_in_common(tmp_path: Path) -> None:
    assert secret(tmp_path, is_on_one_host=False) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["open folder", "open file", "link", "file"])
def test_a_key_that_others_may_know_is_none(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "keys"
    if what == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif what == "file":
        folder.touch(mode=0o600)
    else:
        assert key_of_user(folder) is not None
        (folder if what == "open folder" else folder / "key").chmod(0o755)
    assert key_of_user(folder) is None


def test_a_generated_launch_has_a_file_for_its_ranks(tmp_path: Path) -> None:
    link = tmp_path / "job-1" / "bin" / "python-1"
    make_link(link)
    file = link.with_name("secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = secret(link.parent, link.name, is_on_one_host=False)
    assert found == file.read_text()
    assert len(found) == 64
    remove(link)
    assert list(tmp_path.iterdir()) == []


def test_a_launch_whose_secret_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        secret(tmp_path, "python-1")
    assert caught.value.problems[0].code == "SW607"
    assert f"{tmp_path}/secret, cannot be read: no such file" in caught.value.problems[0].found
