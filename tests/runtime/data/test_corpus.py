"""The files of the corpus, and their order."""

import hashlib
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from planner import Problem
from runtime.data.corpus import Corpus, CorpusUnreadable, find_corpus, find_mix
from runtime.data.corpus_hash import hash_corpus, stat_sources
from runtime.data.documents import TextReader
from runtime.data.folders import NOT_LIBRARY
from runtime.data.survey import survey_corpus
from tests.support.data_strategies import make_strategy
from tests.support.fixes import follow_data_fix


def names(corpus: Corpus, root: Path) -> list[str]:
    return [source.file.relative_to(root).as_posix() for source in corpus.sources]


def only_problem(path: str | tuple[str, ...]) -> Problem:
    (problem,) = find_corpus(path).problems
    assert problem.path == "data.path"
    return problem


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a/z.md", "a/y.jsonl", "a.txt", ".git/config", "a/.hidden", "__pycache__/m.pyc"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    return tmp_path


def test_folder_is_read_in_the_order_of_its_paths_without_hidden_files(tree: Path) -> None:
    corpus = find_corpus(str(tree))
    assert names(corpus, tree) == ["a/y.jsonl", "a/z.md", "a.txt", "b.txt"]


def test_list_keeps_the_order_in_which_it_was_written(tree: Path) -> None:
    assert names(find_corpus((f"{tree}/b.txt", f"{tree}/a.txt")), tree) == ["b.txt", "a.txt"]


def test_glob_finds_files_below(tree: Path) -> None:
    assert names(find_corpus(f"{tree}/**/*.md"), tree) == ["a/z.md"]
    assert names(find_corpus(f"{tree}/*.txt"), tree) == ["a.txt", "b.txt"]


def test_name_with_a_bracket_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert names(find_corpus(f"{tmp_path}/a[1].txt"), tmp_path) == ["a[1].txt"]


def test_file_reached_twice_is_read_once_with_a_warning(tree: Path) -> None:
    os.link(tree / "b.txt", tree / "c.txt")
    corpus = find_corpus((f"{tree}/b.txt", str(tree)))
    assert names(corpus, tree) == ["b.txt", "a/y.jsonl", "a/z.md", "a.txt"]
    assert corpus.warnings[0].startswith("SW718")
    assert "(2)" in corpus.warnings[0]


def test_link_to_a_folder_above_is_not_followed(tree: Path) -> None:
    (tree / "a" / "back").symlink_to(tree)
    assert names(find_corpus(str(tree)), tree) == ["a/y.jsonl", "a/z.md", "a.txt", "b.txt"]


def test_links_that_lead_nowhere_are_problems(tmp_path: Path) -> None:
    """To themselves, to one another, to a file that is gone: in a folder, by a glob and by their names."""
    (tmp_path / "a.txt").write_text("words")
    for name, target in {"b.txt": "b.txt", "c": "d", "d": "c", "e.txt": "gone"}.items():
        (tmp_path / name).symlink_to(target)
    for path in (str(tmp_path), f"{tmp_path}/*"):
        sources = find_corpus(path).sources
        with pytest.raises(CorpusUnreadable) as caught:
            stat_sources(sources)
        survey = survey_corpus(sources, TextReader(field="text"))
        for problems in (caught.value.problems, survey.problems):
            assert [Path(str(p.file)).name for p in problems] == ["b.txt", "c", "d", "e.txt"]
            assert {p.code for p in problems} == {"SW705"}
            assert all("correct the link or remove it" in p.fix for p in problems)
    assert only_problem(f"{tmp_path}/b.txt").code == "SW705"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.{txt,md}", ["*.txt", "*.md"]), ("{a,x}.txt", ["a.txt"]), ("{a,b}{0..2}.txt", ["a1.txt", "b2.txt"])],
)
def test_braces_are_told_the_patterns_that_they_mean(tree: Path, pattern: str, names: list[str]) -> None:
    for name in ("c.md", "a1.txt", "b2.txt"):
        (tree / name).write_text("x")
    problem = only_problem(f"{tree}/{pattern}")
    fixed = make_strategy(tree, None, *follow_data_fix(problem.fix)).data.path
    assert fixed == (f"{tree}/{names[0]}" if len(names) == 1 else tuple(f"{tree}/{name}" for name in names))
    assert find_corpus(fixed).problems == ()


def test_braces_in_a_list_and_in_a_mix_keep_the_others(tree: Path) -> None:
    braces = f"{tree}/{{a,b}}.txt"
    problem = only_problem((f"{tree}/a", braces))
    assert make_strategy(tree, None, *follow_data_fix(problem.fix)).data.path == (
        f"{tree}/a",
        f"{tree}/a.txt",
        f"{tree}/b.txt",
    )
    (problem,) = find_mix([f"{tree}/a", braces], [1.0, 2.0]).problems
    mix = make_strategy(tree, None, *follow_data_fix(problem.fix)).data.mix
    assert mix is not None
    assert [(part.path, part.weight) for part in mix] == [
        (f"{tree}/a", 1),
        ((f"{tree}/a.txt", f"{tree}/b.txt"), 2),
    ]


def test_braces_that_match_nothing_are_a_problem_and_a_name_with_them_is_a_file(tree: Path) -> None:
    assert "none of its 2 patterns matches" in only_problem(f"{tree}/{{x,y}}.txt").found
    (tree / "{x,y}.txt").write_text("x")
    assert names(find_corpus(f"{tree}/{{x,y}}.txt"), tree) == ["{x,y}.txt"]


@pytest.mark.parametrize(
    ("numbers", "total", "missing"),
    [
        ((0, 2), 3, "00001"),
        ((1, 2), 3, "00000"),
        ((1, 3), 3, "00002"),
        ((0, 1, 2), 3, None),
        ((1, 2, 3), 3, None),
    ],
)
def test_missing_files_of_a_numbered_set_are_a_warning(
    tmp_path: Path, numbers: tuple[int, ...], total: int, missing: str | None
) -> None:
    for number in numbers:
        (tmp_path / f"part-{number:05}-of-{total:05}.jsonl.gz").write_bytes(b"x")
    for path in (str(tmp_path), f"{tmp_path}/*"):
        warnings = find_corpus(path).warnings
        if missing is None:
            assert warnings == ()
        else:
            (warning,) = warnings
            assert warning.startswith(
                f"SW746 {tmp_path}: 1 of 3 files part-NUMBER-of-00003.jsonl.gz are missing"
            )
            assert warning.endswith(f": {missing}")
    # One file that is named by itself is meant.
    assert find_corpus(f"{tmp_path}/part-00001-of-00003.jsonl.gz").warnings == ()


def test_linked_folder_is_read(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("other")
    (root / "data").symlink_to(tree / "a")
    assert names(find_corpus(str(root)), root) == ["data/y.jsonl", "data/z.md"]


def test_missing_files_are_problems(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for entry, code in {
        f"{tmp_path}/*.txt": "SW701",
        f"{tmp_path}/*": "SW701",
        f"{tmp_path}/sub": "SW701",
        f"{tmp_path}/none.txt": "SW702",
        "none.parquet": "SW702",
    }.items():
        problem = only_problem(entry)
        assert problem.code == code
        assert entry in problem.found
    assert f"{tmp_path}/*/**/*" in only_problem(f"{tmp_path}/*").fix


def test_pipe_is_a_problem_instead_of_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert only_problem(f"{tmp_path}/pipe").code == "SW701"


def test_every_wrong_entry_is_reported(tmp_path: Path) -> None:
    assert len(find_corpus((f"{tmp_path}/*.a", f"{tmp_path}/*.b", f"{tmp_path}/c.txt")).problems) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission_is_a_problem(tree: Path) -> None:
    (tree / "a").chmod(0)
    try:
        problem = only_problem(str(tree))
        assert problem.code == "SW705"
        assert problem.file == str(tree / "a")
    finally:
        (tree / "a").chmod(0o755)


def test_standard_library_is_its_sources_without_tests_and_packages() -> None:
    corpus = find_corpus(None)
    assert not corpus.problems
    assert len(corpus.sources) > 300
    stdlib = Path(os.__file__).parent
    assert {s.file.suffix for s in corpus.sources} == {".py"}
    assert not any(NOT_LIBRARY.intersection(s.file.relative_to(stdlib).parts) for s in corpus.sources)
    assert [s.file for s in corpus.sources] == sorted(s.file for s in corpus.sources)


def test_hash_follows_bytes_and_order_but_not_names(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "two"), ("c", "one"), ("d", "two")):
        (tmp_path / name).write_text(content)

    def hash_of(*chosen: str) -> str:
        return hash_corpus(find_corpus(tuple(f"{tmp_path}/{name}" for name in chosen)).sources)

    assert hash_of("a", "b") == hash_of("c", "d")
    assert hash_of("a", "b") != hash_of("b", "a")
    assert hash_of("a", "b") != hash_of("a")


def test_corpus_hash_is_made_of_how_files_were_reached_and_their_hashes(tmp_path: Path) -> None:
    """Part of every cache key: data prepared by an older version must be found again."""
    found, named = hashlib.sha256(), hashlib.sha256()
    for name, content in (("a.txt", b"one"), ("b.jsonl", b"{}")):
        (tmp_path / name).write_bytes(content)
        found.update(b"found\0" + hashlib.sha256(content).digest())
        named.update(b"named\0" + hashlib.sha256(content).digest())
    assert hash_corpus(find_corpus(str(tmp_path)).sources) == found.hexdigest()
    files = (f"{tmp_path}/a.txt", f"{tmp_path}/b.jsonl")
    assert hash_corpus(find_corpus(files).sources) == named.hexdigest()


def test_file_stats_change_when_a_file_is_rewritten_with_its_old_time(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    sources = find_corpus(str(file)).sources
    before, times = stat_sources(sources), file.stat()
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stat_sources(sources) != before


def test_dataset_name_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    problem = only_problem("someone/some-text")
    assert problem.code == "SW703"
    assert ".[datasets]" in problem.fix


def stand_in(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable[..., object]) -> None:
    module = types.ModuleType("datasets")
    module.__dict__["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_dataset_that_cannot_be_downloaded_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    stand_in(monkeypatch, load_dataset)
    problem = only_problem("someone/some-text")
    assert problem.code == "SW704"
    assert "ConnectionError: Couldn't reach the Hub" in problem.found


def test_dataset_is_its_arrow_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(b"")
    asked = []

    def load_dataset(*arguments: object, **options: object) -> types.SimpleNamespace:
        asked.append((arguments, options))
        return types.SimpleNamespace(cache_files=[{"filename": str(tmp_path / "x.arrow")}])

    stand_in(monkeypatch, load_dataset)
    (source,) = find_corpus("someone/some-text:small").sources
    assert (source.file, source.is_named) == (tmp_path / "x.arrow", True)
    assert asked == [(("someone/some-text", "small"), {"split": "train"})]
