"""Folders with splits: train is read and the others are named; a folder without them is read as it is."""

import json
from pathlib import Path

import pytest

from runtime.data.corpus import Corpus, find_corpus

CARD = """---
license: mit
task_categories:
- text-generation
configs:
- config_name: default
  data_files:
  - split: train
    path: "some/*.jsonl"
  - split: final
    path: more/final.jsonl
---
# A dataset
"""


def tree(root: Path, *names: str, card: str | None = None) -> Corpus:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name} is the text of this file")
    if card is not None:
        (root / "README.md").write_text(card)
    return find_corpus(str(root))


def names(corpus: Corpus, root: Path) -> list[str]:
    return [source.file.relative_to(root).as_posix() for source in corpus.sources]


@pytest.mark.parametrize(
    ("held_out", "train"),
    [
        (["test.jsonl", "validation.jsonl"], ["train.jsonl"]),
        (
            ["data/test-00000-of-00001.parquet"],
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (["en/test.csv", "de/test.csv"], ["de/train.csv", "en/train.csv"]),
        (["test/a.txt", "valid/b.txt"], ["train/a.txt", "train/c.txt"]),
        (["wiki.test.tokens", "wiki.valid.tokens"], ["wiki.train.tokens"]),
        (["TinyStoriesV2-GPT4-valid.txt"], ["TinyStoriesV2-GPT4-train.txt"]),
        (["dev.json.gz", "eval.json.gz"], ["train.json.gz"]),
        (["val_1.tsv"], ["training_1.tsv", "training_2.tsv"]),
    ],
)
def test_train_split_is_taken_and_said(tmp_path: Path, held_out: list[str], train: list[str]) -> None:
    corpus = tree(tmp_path, *held_out, *train)
    assert names(corpus, tmp_path) == train
    (warning,) = corpus.warnings
    assert warning.startswith("SW744")
    assert all(name in warning for name in (*held_out, train[0]))


def test_everything_is_read_by_the_glob_that_is_printed(tmp_path: Path) -> None:
    corpus = tree(tmp_path, "test.jsonl", "sub/a.jsonl", "train.jsonl")
    glob = corpus.warnings[0].rpartition("data.path=")[2].strip("'")
    everything = find_corpus(glob)
    assert names(everything, tmp_path) == ["sub/a.jsonl", "test.jsonl", "train.jsonl"]
    assert [warning[:5] for warning in everything.warnings] == ["SW745"]


@pytest.mark.parametrize(
    "files",
    [
        ["train.txt", "notes on test.txt"],
        ["test.txt", "other.txt"],
        ["train.py", "test.py"],
        ["src/a.py", "test/test_a.py", "train.py"],
        ["a.md", "README.md"],
        ["latest.txt", "constraint.txt"],
        ["a/train.txt", "b/test.txt"],
        ["a.txt", "LICENSE"],
    ],
)
def test_folder_without_splits_is_read_as_it_is(tmp_path: Path, files: list[str]) -> None:
    corpus = tree(tmp_path, *files)
    assert names(corpus, tmp_path) == sorted(files)
    assert corpus.warnings == ()


def test_folder_of_held_out_splits_alone_is_read_with_a_warning(tmp_path: Path) -> None:
    corpus = tree(tmp_path, "test.jsonl", "validation.jsonl")
    assert names(corpus, tmp_path) == ["test.jsonl", "validation.jsonl"]
    assert corpus.warnings[0].startswith("SW745")


def test_description_of_a_dataset_is_not_its_text(tmp_path: Path) -> None:
    corpus = tree(tmp_path, "a.jsonl", "b.jsonl", "LICENSE", "dataset_infos.json", card="# Words about it\n")
    assert names(corpus, tmp_path) == ["a.jsonl", "b.jsonl"]
    assert "README.md" in corpus.warnings[0]


def test_splits_that_the_card_declares_are_followed(tmp_path: Path) -> None:
    files = ["more/final.jsonl", "some/1.jsonl", "some/2.jsonl"]
    corpus = tree(tmp_path, *files, card=CARD)
    assert names(corpus, tmp_path) == files[1:]
    assert "left out: final (more/final.jsonl), its description (README.md)" in corpus.warnings[0]


def test_readme_of_a_folder_of_prose_is_text(tmp_path: Path) -> None:
    corpus = tree(tmp_path, "chapter.md", card="---\ntitle: A book\nlicense: mit\n---\n# A book\n")
    assert names(corpus, tmp_path) == ["README.md", "chapter.md"]


def test_split_that_is_named_itself_is_read(tmp_path: Path) -> None:
    tree(tmp_path, "data/test/a.txt", "data/train/a.txt")
    for path in ("data/test", "data/test/a.txt"):
        corpus = find_corpus(f"{tmp_path}/{path}")
        assert names(corpus, tmp_path) == ["data/test/a.txt"]
        assert corpus.warnings == ()


def test_saved_splits_say_which_is_taken(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.arrow").write_bytes(b"x")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}))
    corpus = find_corpus(str(tmp_path))
    assert names(corpus, tmp_path) == ["train/data.arrow"]
    assert "left out: test" in corpus.warnings[0]
