"""Any content of a checkpoint's files: an answer or a reason within a second, never another error."""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from planner import StrategyError, build_plan, loads
from runtime.checkpoint.__main__ import app
from runtime.checkpoint.compatibility import Fingerprints
from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.reader import read_weights
from runtime.checkpoint.store import newest, open_checkpoint
from runtime.startup.resume import find_start
from tests.runtime.startup.test_resume import STRATEGY
from tests.support.fuzz import cases, changed_json, damaged, quick_and_slow, within
from tests.support.states import META, full_state, save, sliced

PLAN = build_plan(loads(STRATEGY))
PRINTS = Fingerprints(model=META.model_fingerprint, recipe=META.recipe_fingerprint)
# What can be in the place of a file or a folder.
KINDS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: (path / "x").mkdir(parents=True),
    "an empty file": lambda path: path.touch(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a dangling link": lambda path: path.symlink_to("none"),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
}
MANIFEST = "checkpoints/step-00000100/manifest.json"
NAMES = (
    "checkpoints/latest",
    "checkpoints/step-00000050",
    "checkpoints/step-00000100",
    MANIFEST,
    "checkpoints/step-00000100/rank-0000.safetensors",
    "checkpoints",
)


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Ten thousand warnings are not worth their time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints; never changed."""
    run = tmp_path_factory.mktemp("whole")
    for step in (50, 100):
        save(run / "checkpoints", step, sliced(full_state(seed=step)))
    return run


def with_hash(fields: Any) -> bytes:
    """A manifest with the hash of its content, as another program would write it."""
    if isinstance(fields, dict):
        content = {key: value for key, value in fields.items() if key != "sha256"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        fields = {**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
    return json.dumps(fields).encode()


def change(draw: st.DrawFn, run: Path, manifest: Any) -> None:
    """One change of a run's checkpoints; `manifest`: that of step 100, as it was written."""
    path = run / draw(st.sampled_from(NAMES))
    how = draw(st.sampled_from(["content", "content", "json", "json", "kind"]))
    if how == "json":
        place = run / MANIFEST
        if place.is_file() and not place.is_symlink():
            place.write_bytes(with_hash(draw(changed_json(manifest))))
    elif how == "content" and path.is_file() and not path.is_symlink():
        path.write_bytes(draw(damaged(path.read_bytes())))
    elif how == "kind" and path.parent.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        KINDS[draw(st.sampled_from(sorted(KINDS)))](path)


@pytest.mark.parametrize("number", quick_and_slow(100))
def test_any_checkpoint_is_read_or_a_reason_is_given(whole: Path, tmp_path: Path, number: int) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())

    @cases(number)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        for _ in range(data.draw(st.integers(1, 2))):
            change(data.draw, run, manifest)
        with within(5):
            with contextlib.suppress(CheckpointError):
                info = newest(run)
                if info is not None:
                    assert all(tensor.numel() for _, tensor in read_weights(info))
            with contextlib.suppress(StrategyError):
                find_start(PLAN, run, PRINTS)
            for path in (run / "checkpoints").glob("step-*"):
                with contextlib.suppress(CheckpointError):
                    open_checkpoint(path)

    holds()


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_the_command_line_has_no_traceback(whole: Path, tmp_path: Path, command: str) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())

    @cases(25)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        change(data.draw, run, manifest)
        result = CliRunner().invoke(app, [command, str(run), "--json"])
        assert result.exit_code in (0, 1, 2), result.output
        assert isinstance(result.exception, SystemExit | None), result.exception

    holds()
