"""Which attempt holds a run, and the files that say how it ended."""

import json
import multiprocessing
import os

import pytest
from typer.testing import CliRunner

from runtime.attempts import app
from runtime.startup.claims import claim, holds, is_gone, set_aside
from runtime.startup.outcome_files import write_done, write_failed
from tests.support.holders import other_process_that_holds


def claim_in(folder) -> int:
    return claim(folder, {"plan": "p"})


def test_claims_count_up_and_only_the_last_one_holds(tmp_path):
    assert claim(tmp_path, {"plan": "abc"}) == 1
    assert holds(tmp_path, 1)
    assert claim(tmp_path, {"plan": "abc"}) == 2
    assert not holds(tmp_path, 1)
    assert holds(tmp_path, 2)


def test_a_claim_says_who(tmp_path):
    claim(tmp_path, {"plan": "abc"})
    content = json.loads((tmp_path / "attempts" / "0001.json").read_text())
    assert content["plan"] == "abc"
    assert content["pid"] == os.getpid()
    who = {"pid", "host", "machine", "process_started"}
    assert set(content) == {"schema_version", "attempt", "started", "plan"} | who


@pytest.mark.parametrize("content", [b"", b'{"attempt": 1, "pi'])
def test_a_torn_claim_counts_and_breaks_nothing(tmp_path, content):
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "0001.json").write_bytes(content)
    (tmp_path / "attempts" / "notes.json").write_bytes(b"?")
    assert claim(tmp_path, {}) == 2


def test_the_count_continues_beyond_four_digits(tmp_path):
    (tmp_path / "attempts").mkdir()
    for number in (9999, 10000):
        (tmp_path / "attempts" / f"{number}.json").touch()
    assert claim(tmp_path, {}) == 10001


def test_claims_at_the_same_moment_are_different(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        numbers = pool.map(claim_in, [tmp_path] * 24, chunksize=1)
    assert sorted(numbers) == list(range(1, 25))


def test_a_claim_removes_done_and_failed_of_older_attempts(tmp_path):
    attempt = claim(tmp_path, {})
    write_done(tmp_path, {"attempt": attempt, "step": 10})
    write_failed(tmp_path, code=3, problems=[], checkpoint=None, attempt=attempt)
    claim(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts"]


def test_done_and_failed_carry_the_attempt(tmp_path):
    attempt = claim(tmp_path, {})
    write_done(tmp_path, {"attempt": attempt, "step": 150, "loss": 5.25})
    write_failed(tmp_path, code=130, problems=[{"found": "x"}], checkpoint=100, attempt=attempt)
    assert json.loads((tmp_path / "done.json").read_text()) == {
        "schema_version": 1,
        "attempt": 1,
        "step": 150,
        "loss": 5.25,
    }
    assert json.loads((tmp_path / "failed.json").read_text()) == {
        "schema_version": 1,
        "attempt": 1,
        "code": 130,
        "problems": [{"found": "x"}],
        "checkpoint": 100,
        "stopped": None,
    }


def test_an_attempt_that_lost_the_run_writes_no_done_json(tmp_path, caplog):
    attempt = claim(tmp_path, {})
    claim(tmp_path, {})
    write_done(tmp_path, {"attempt": attempt})
    assert not (tmp_path / "done.json").exists()
    assert "SW642" in caplog.text


def test_set_aside_moves_to_the_first_free_name(tmp_path):
    for expected in ("tiny.001", "tiny.002"):
        run = tmp_path / "tiny"
        run.mkdir()
        (run / "telemetry.jsonl").write_text(expected)
        moved = set_aside(run)
        assert moved == tmp_path / expected
        assert (moved / "telemetry.jsonl").read_text() == expected
        assert not run.exists()


def test_set_aside_never_touches_what_is_there(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny.001").write_text("a file")
    assert set_aside(tmp_path / "tiny").name == "tiny.002"
    assert (tmp_path / "tiny.001").read_text() == "a file"


def test_a_name_that_is_no_attempts_number_does_not_count(tmp_path):
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / f"{'9' * 200}.json").touch()
    assert claim(tmp_path, {}) == 1


def test_a_claim_is_gone_with_its_folder(tmp_path, caplog):
    run = tmp_path / "tiny"
    attempt = claim(run, {})
    assert not is_gone(run, attempt)
    run.rename(tmp_path / "elsewhere")
    assert is_gone(run, attempt)
    write_done(run, {"attempt": attempt, "step": 1})
    assert not run.exists()
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["SW645"]


def test_a_run_that_is_trained_is_not_set_aside(tmp_path):
    run = tmp_path / "run"
    with other_process_that_holds(run) as process:
        result = CliRunner().invoke(app, ["set-aside", str(run)])
        assert result.exit_code == 2
        assert f"SW648 the run is being trained (attempt 1, pid {process.pid} on " in result.stderr
        assert run.exists()
    assert CliRunner().invoke(app, ["set-aside", str(run)]).exit_code == 0


def test_set_aside_as_a_program(tmp_path):
    run = tmp_path / "tiny"
    run.mkdir()
    moved = CliRunner().invoke(app, ["set-aside", str(run)])
    assert (moved.exit_code, moved.stdout) == (0, f"{run} was moved to {run}.001\n")
    nothing = CliRunner().invoke(app, ["set-aside", str(run)])
    assert (nothing.exit_code, "nothing is in the way" in nothing.stdout) == (0, True)
    run.write_text("kept")
    wrong = CliRunner().invoke(app, ["set-aside", str(run)])
    assert (wrong.exit_code, wrong.stderr.partition(": ")[2][:5], run.read_text()) == (2, "SW646", "kept")
    for option in ("-h", "--help"):
        assert CliRunner().invoke(app, [option]).exit_code == 0
