"""What was saved in place of the data is refused; the same words in prose are text."""

import gzip
from pathlib import Path

import pytest

from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader
from runtime.data.survey import survey_corpus
from tests.runtime.data.test_forms import only_problem, problems, read, write
from tests.support.fixes import follow_data_fix

# As a checkout without `git lfs pull` has it (git-lfs, docs/spec.md).
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
PAGE = (
    '<!DOCTYPE html>\n<html lang="en"><head><title>404</title></head>\n<body><h1>Sign in</h1></body></html>\n'
)
ANSWERS = {
    "a page": PAGE,
    "a page of XHTML": f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- made by -->\n{PAGE[16:]}',
    "a page in capitals": "\n\n<HTML><BODY>Login</BODY></HTML>\n",
    "an error of S3": '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n',
    "an error of the Hub": '{"error": "Repository not found"}',
    "an error of GitHub": '{"message": "Not Found", "documentation_url": "https://a.b", "status": "404"}',
    "an error of FastAPI": '{"detail": "Not authenticated"}',
    "a line of GitHub": "404: Not Found",
    "a line of the Hub": "Entry not found\n",
}


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "train-00000-of-00001.parquet", "a"])
@pytest.mark.parametrize("is_in_folder", [False, True])
def test_pointer_is_refused_under_any_name_of_data(tmp_path: Path, name: str, is_in_folder: bool) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / name, POINTER)
    write(folder / "b.txt", "words " * 100)
    problem = only_problem(folder if is_in_folder else folder / name)
    assert (problem.code, problem.file) == ("SW729", str(folder / name))
    assert f"git -C {folder} lfs pull" in problem.fix


def test_pointers_of_images_and_weights_are_skipped_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "words " * 100)
    write(tmp_path / "logo.png", POINTER)
    survey = survey_corpus(find_corpus(str(tmp_path)).sources, TextReader(field="text"))
    assert survey.problems == ()
    assert "a pointer of Git LFS" in survey.skipped[0]
    assert only_problem(tmp_path / "logo.png").code == "SW729"


def test_prose_about_pointers_is_text(tmp_path: Path) -> None:
    prose = f"A pointer looks like this:\n\n{POINTER}"
    assert read(write(tmp_path / "a.txt", prose)) == [prose]


@pytest.mark.parametrize("name", ["train.jsonl", "train.txt", "train.json", "train.csv", "train.jsonl.gz"])
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("is_in_folder", [False, True])
def test_answer_of_a_server_is_refused_under_a_name_of_data(
    tmp_path: Path, name: str, kind: str, is_in_folder: bool
) -> None:
    content = ANSWERS[kind].encode()
    write(tmp_path / "other.txt", "words " * 100)
    write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    problem = only_problem(tmp_path if is_in_folder else tmp_path / name)
    assert (problem.code, problem.file) == ("SW730", str(tmp_path / name))
    assert problem.fix.startswith("download the file again")


@pytest.mark.parametrize("name", ["page.txt", "page.txt.gz", "page.json"])
def test_page_that_is_the_text_is_trained_after_the_fix(tmp_path: Path, name: str) -> None:
    content = PAGE.encode()
    file = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    (override,) = follow_data_fix(only_problem(file).fix)
    assert read(Path(override.removeprefix("data.path="))) == [PAGE]


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml", "a.php", "a", "a.html.gz"])
def test_pages_that_are_named_so_are_text(tmp_path: Path, name: str) -> None:
    content = PAGE.encode()
    assert read(write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)) == [PAGE]


@pytest.mark.parametrize(
    "prose",
    [
        "Not found in this archive, the letter came to light in 1905.\n",
        "The server answers 404: Not Found, and <html> begins the page.\n",
        "Forbidden fruit\n\nA story.\n",
    ],
)
def test_prose_about_errors_is_text(tmp_path: Path, prose: str) -> None:
    assert read(write(tmp_path / "a.txt", prose)) == [prose]


def test_records_with_a_key_of_errors_are_data(tmp_path: Path) -> None:
    lines = '{"message": "words and words", "code": "x"}\n{"message": "more words", "code": "y"}\n'
    (problem,) = problems(write(tmp_path / "commits.jsonl", lines))
    assert problem.code == "SW708"
    assert problem.fix.startswith("write data.text_field=message,")
