"""A journal survives a kill: entries are whole, and what was cut off is left out."""

from pathlib import Path

import pytest

from launch.supervisor.journal import JOURNAL_NAME, Entry, Journal, read_journal


def test_entries_are_read_as_written_and_told(tmp_path: Path) -> None:
    told: list[Entry] = []
    journal = Journal(tmp_path, told.append)
    journal.write("start", "attempt 1 on a, b", attempt=1, hosts=["a", "b"])
    journal.write("end", "done")
    entries = list(read_journal(tmp_path))
    assert entries == told
    assert [(entry.event, dict(entry.facts)) for entry in entries] == [
        ("start", {"attempt": 1, "hosts": ["a", "b"]}),
        ("end", {}),
    ]


def test_what_was_cut_off_or_is_no_entry_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path, lambda entry: None)
    journal.write("start", "one")
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(path.read_bytes() + b'[1]\n{"time": null}\n\xff\n{"time": 1.0, "eve')
    journal.write("start", "two")
    assert [entry.text for entry in read_journal(tmp_path)] == ["one", "two"]


def test_a_run_without_a_journal_has_no_entries(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path)) == []


def test_a_disk_that_takes_no_entry_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Entry] = []
    Journal(tmp_path / "gone", told.append).write("start", "attempt 1")
    assert [entry.text for entry in told] == ["attempt 1"]
    assert "SW456" in capsys.readouterr().err
