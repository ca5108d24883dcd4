"""Growing files: each line once, however the file changes between two looks."""

from pathlib import Path

from launch.run_folder.lines import LineTail


def test_each_line_is_read_once(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    tail = LineTail(path)
    assert list(tail.read()) == [{"a": 1}, {"a": 2}]
    assert list(tail.read()) == []
    with path.open("a") as file:
        file.write('{"a": 3}\n')
    assert list(tail.read()) == [{"a": 3}]


def test_a_missing_file_may_come_later(tmp_path: Path):
    tail = LineTail(tmp_path / "lines.jsonl")
    assert list(tail.read()) == []
    assert not tail.exists
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n')
    assert list(tail.read()) == [{"a": 1}]
    assert tail.exists


def test_a_file_in_its_place_is_read_from_the_start(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    tail = LineTail(path)
    list(tail.read())
    path.write_text('{"b": 1}\n')  # shorter
    assert list(tail.read()) == [{"b": 1}]
    (tmp_path / "other").write_text('{"c": 1}\n{"c": 2}\n{"c": 3}\n')
    (tmp_path / "other").replace(path)
    assert len(list(tail.read())) == 3
    assert tail.was_replaced


def test_the_tail_begins_with_a_complete_line(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"step": {1000 + i}}}\n' for i in range(1000)))
    size = len(path.read_text().splitlines()[0]) + 1
    assert len(list(LineTail(path, tail_bytes=10 * size + 3).read())) == 10
    assert len(list(LineTail(path, tail_bytes=10**9).read())) == 1000


def test_a_folder_in_its_place_has_no_lines(tmp_path: Path):
    (tmp_path / "lines.jsonl").mkdir()
    assert list(LineTail(tmp_path / "lines.jsonl").read()) == []
