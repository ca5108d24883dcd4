"""Lines that survive kills and resumes."""

import json
import logging
import os

import pytest

from runtime.files.json_lines import LineFile, LineFileDeletedError, read_steps


def write(path, *lines) -> None:
    file = LineFile(path)
    for line in lines:
        file.append(line)
    file.close()


def test_lines_come_back_by_step(tmp_path):
    path = tmp_path / "ranks" / "rank-0000.jsonl"
    write(path, {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25})
    assert read_steps(path) == {1: {"step": 1, "loss": 2.5}, 2: {"step": 2, "loss": 2.25}}


def test_the_last_line_of_a_step_counts(tmp_path):
    path = tmp_path / "t.jsonl"
    write(path, {"step": 2, "attempt": 1}, {"step": 3, "attempt": 1})
    write(path, {"step": 1, "attempt": 2}, {"step": 2, "attempt": 2})
    assert [(step, line["attempt"]) for step, line in read_steps(path).items()] == [(1, 2), (2, 2), (3, 1)]


@pytest.mark.parametrize("cut", range(1, 21))
def test_a_torn_last_line_never_joins_the_next(tmp_path, caplog, cut):
    path = tmp_path / "t.jsonl"
    write(path, {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    write(path, {"step": 2, "loss": 2.0})
    with caplog.at_level(logging.WARNING):
        assert read_steps(path) == {1: {"step": 1, "loss": 2.5}, 2: {"step": 2, "loss": 2.0}}
    assert len(caplog.records) == (cut > 1)  # only the newline was lost: the line itself is whole


def test_torn_and_foreign_lines_are_named(tmp_path, caplog):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo\n[3]\n{"loss": 4}\n\xff\x00\n{"step": 5}\n')
    assert list(read_steps(path)) == [1, 5]
    assert [record.args[1] for record in caplog.records] == [2, 3, 4, 5]


def test_numbers_that_json_has_not_are_null_and_named(tmp_path):
    path = tmp_path / "t.jsonl"
    line = {"step": 1, "loss": float("nan"), "phases_s": {"data": float("inf")}, "load": [1.0, -float("inf")]}
    write(path, line)
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "phases_s": {"data": None},
        "load": [1.0, None],
        "not_finite": {"loss": "nan", "phases_s.data": "inf", "load.1": "-inf"},
    }


def test_writers_in_many_processes_never_mix_their_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    pids = []
    for writer in range(4):
        pid = os.fork()
        if pid == 0:
            write(path, *({"step": writer * 50 + number, "text": "x" * 3000} for number in range(50)))
            os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    assert list(read_steps(path)) == list(range(200))


def test_a_disk_that_takes_half_a_line_is_an_error(tmp_path, monkeypatch):
    file = LineFile(tmp_path / "t.jsonl")
    write_half = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write_half(descriptor, line[: len(line) // 2]))
    with pytest.raises(OSError, match="only 6 of a line's 12 bytes"):
        file.append({"step": 1})


def test_a_file_that_was_deleted_takes_no_more_lines(tmp_path):
    lines = LineFile(tmp_path / "ranks" / "a.jsonl")
    lines.append({"step": 1})
    (tmp_path / "ranks" / "a.jsonl").unlink()
    with pytest.raises(LineFileDeletedError, match=r"SW963 .*/ranks/a.jsonl was deleted"):
        lines.append({"step": 2})
    (tmp_path / "ranks").rmdir()
    with pytest.raises(LineFileDeletedError, match=r"SW963 .*/ranks was deleted"):
        lines.append({"step": 2})


@pytest.mark.parametrize(
    "line", ["[" * 9999, '{"step": Infinity}', '{"step": NaN}', '{"step": [1]}', "3", "\ud800"]
)
def test_a_line_that_is_no_step_is_skipped(tmp_path, line, caplog):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line.encode(errors="surrogatepass") + b'\n{"step": 2}\n')
    assert list(read_steps(path)) == [1, 2]
    assert "SW962" in caplog.text
