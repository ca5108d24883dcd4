"""The data cache: reuse, kills, damage, and two processes that prepare at once."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner import Problem, Strategy, StrategyError
from runtime.data import cache, open_data, prepare_data
from runtime.data.cache import DataManifest
from tests.support.data_strategies import make_strategy, write_corpus

# Prepares CORPUS with its runs in RUNS; a third argument makes it wait in the middle for a line on its stdin.
PROGRAM = """
import sys
from pathlib import Path
from runtime.data import encode
from runtime.data import prepare_data
from tests.support.data_strategies import make_strategy
if len(sys.argv) > 3:
    write = encode._write_tokens
    def slowly(writer, *arguments):
        writer.add([1, 2], ends_document=True)
        print("half", flush=True)
        sys.stdin.readline()
        return write(writer, *arguments)
    encode._write_tokens = slowly
print(prepare_data(make_strategy(Path(sys.argv[2]), Path(sys.argv[1]))), flush=True)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def problems(strategy: Strategy) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as caught:
        prepare_data(strategy)
    return caught.value.problems


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def test_second_time_tokenizes_nothing(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    monkeypatch.setattr("runtime.data.prepare.encode_corpus", None)
    assert prepare_data(strategy) == entry


def test_settled_files_are_not_read_again(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_S", -1.0)
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    monkeypatch.setattr("runtime.data.prepare.hash_corpus", None)
    monkeypatch.setattr(cache, "sha256_of", None)
    assert prepare_data(strategy) == entry


def test_files_written_a_moment_ago_are_read_again(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    monkeypatch.setattr("runtime.data.prepare.hash_corpus", lambda sources: "another hash")
    assert prepare_data(strategy) != entry
    assert not (tmp_path / ".cache" / "data" / "seen").exists()


def test_cache_that_cannot_be_written_is_a_problem(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    (problem,) = problems(make_strategy(tmp_path / "runs", corpus))
    assert (problem.code, problem.path) == ("SW714", "output.folder")


def test_file_modified_while_being_read_is_a_problem(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.data import prepare

    encode = prepare.encode_corpus

    def encode_and_modify(*arguments: Any) -> DataManifest:
        manifest = encode(*arguments)
        (corpus / "1.txt").write_text("other")
        return manifest

    monkeypatch.setattr(prepare, "encode_corpus", encode_and_modify)
    (problem,) = problems(make_strategy(tmp_path, corpus))
    assert problem.code == "SW710"
    assert str(corpus / "1.txt") in problem.found
    assert not list((tmp_path / ".cache" / "data").glob("*"))


def test_kill_while_encoding_leaves_no_entry(tmp_path: Path, corpus: Path) -> None:
    process = start(corpus, tmp_path, "waits")
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    cache = tmp_path / ".cache" / "data"
    assert [path.name[:5] for path in cache.iterdir()] == [".tmp-"]
    strategy = make_strategy(tmp_path, corpus)
    with pytest.raises(StrategyError, match="SW715"):
        open_data(strategy)
    entry = prepare_data(strategy)
    assert open_data(strategy).num_train_sequences > 0
    assert list(cache.iterdir()) == [entry]


def test_leftovers_are_removed_even_when_the_entry_is_complete(tmp_path: Path, corpus: Path) -> None:
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    (entry.parent / ".tmp-killed").mkdir()
    (entry.parent / ".tmp-killed" / "lock").touch()
    (entry.parent / ".tmp-empty").mkdir()
    (entry.parent / ".trash-x").mkdir()
    prepare_data(strategy)
    assert list(entry.parent.iterdir()) == [entry]


def test_two_processes_that_prepare_at_once_use_one_entry(tmp_path: Path, corpus: Path) -> None:
    slow = start(corpus, tmp_path, "waits")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "half\n"
    fast = start(corpus, tmp_path)  # must neither wait for the other nor remove its folder
    entries = {fast.communicate(timeout=30)[0].strip()}
    assert slow.poll() is None
    entries.add(slow.communicate("go on\n", timeout=30)[0].strip())
    assert (fast.returncode, slow.returncode) == (0, 0)
    assert entries == {str(path) for path in (tmp_path / ".cache" / "data").iterdir()}
    assert open_data(make_strategy(tmp_path, corpus)).num_train_sequences > 0


@pytest.mark.parametrize("name", ["tokens.bin", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_damaged_entry_is_prepared_again_with_a_warning(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    tokens = open_data(strategy).tokens.copy()
    content = bytearray((entry / name).read_bytes())
    if damage == "removed":
        (entry / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (entry / name).write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if (name, damage) != ("tokens.bin", "flipped"):  # every rank notices these; the other, only rank 0
        with pytest.raises(StrategyError, match="SW715"):
            open_data(strategy)
    assert prepare_data(strategy) == entry
    assert "SW716" in caplog.text
    assert np.array_equal(open_data(strategy).tokens, tokens)


def test_rank_with_the_entry_does_not_read_the_corpus(tmp_path: Path, corpus: Path) -> None:
    strategy = make_strategy(tmp_path, corpus)
    entry = prepare_data(strategy)
    for file in corpus.iterdir():
        file.unlink()
    assert open_data(strategy, entry=entry).num_train_sequences > 0


def test_cache_folder_may_be_chosen(tmp_path: Path, corpus: Path) -> None:
    strategy = make_strategy(tmp_path / "runs", corpus)
    assert prepare_data(strategy, tmp_path / "cache").parent == tmp_path / "cache"
    assert open_data(strategy, tmp_path / "cache").folder.parent == tmp_path / "cache"
    assert not (tmp_path / "runs").exists()


def test_default_corpus_is_the_standard_library_tokenized_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(sysconfig.get_paths()["stdlib"]) / "email"  # a tenth of the library is enough here
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(package)})
    strategy = make_strategy(tmp_path, None, "model.vocab_size=1024")
    entry = prepare_data(strategy)
    monkeypatch.setattr("runtime.data.prepare.encode_corpus", None)
    assert prepare_data(strategy) == entry
    data = open_data(strategy)
    text = data.tokenizer().decode(data.tokens.tolist(), skip_special_tokens=False)
    files = sorted(file for file in package.rglob("*.py") if file.parent.name != "tests")
    assert text == "".join(
        f"{file.read_bytes().decode()}<|endoftext|>" for file in files if file.stat().st_size
    )
