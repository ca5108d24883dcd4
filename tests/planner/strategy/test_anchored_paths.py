"""Relative paths of a strategy start at one folder, whichever process uses them."""

from pathlib import Path

from planner.strategy.anchored_paths import anchor_paths
from tests.support.examples import strategy

HERE = Path("/here")


def test_every_relative_path_becomes_absolute() -> None:
    found = anchor_paths(
        strategy(
            "data.path=[a/*.txt, /b]",
            "data.tokenizer=t.json",
            "output.resume=old/run",
            "launch.python=env/bin/python",
            "launch.ssh_config=ssh",
            "model.init_from=base",
        ),
        HERE,
    )
    assert found.data.path == ("/here/a/*.txt", "/b")
    assert (found.data.tokenizer, found.model.init_from) == ("/here/t.json", "/here/base")
    assert (found.output.folder, found.output.resume) == ("/here/runs", "/here/old/run")
    assert (found.launch.python, found.launch.ssh_config) == ("/here/env/bin/python", "/here/ssh")


def test_words_and_programs_by_name_are_no_paths() -> None:
    for word in ("auto", "never", "require"):
        assert anchor_paths(strategy(f"output.resume={word}"), HERE).output.resume == word
    assert anchor_paths(strategy("launch.python=python3.11"), HERE).launch.python == "python3.11"


def test_what_is_absolute_stays_the_same_strategy() -> None:
    absolute = strategy("output.folder=/runs", "data.path=/a")
    assert anchor_paths(absolute, HERE) == absolute
