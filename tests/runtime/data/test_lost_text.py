"""The share of a text for which a tokenizer has no token."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from planner import StrategyError
from runtime.data import open_data, prepare_data
from runtime.data.lost_text import find_unknown_id, measure_lost_text
from runtime.data.tokenizer import train_tokenizer
from tests.support.data_strategies import make_strategy, words


def character_tokenizer(unknown: str | None, *, byte_fallback: bool = False) -> Tokenizer:
    """A BPE of the characters a to d without merges, as SentencePiece models are made."""
    entries = ["<unk>", "</s>", *"abcd", *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return Tokenizer(models.BPE(vocabulary, [], unk_token=unknown, byte_fallback=byte_fallback))


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_share_counts_characters_without_a_token(unknown: str | None) -> None:
    """Both when they become the unknown token and when they are dropped: 3 of 9, white space aside."""
    lost = measure_lost_text(character_tokenizer(unknown), ["ab é\n", "日 cdab é"])
    assert (lost.num_characters, lost.num_lost) == (9, 3)
    assert lost.share == pytest.approx(3 / 9)
    assert lost.lost == {"é": 2, "日": 1}
    assert lost.examples == "'é' '日'"


def test_bytes_lose_nothing() -> None:
    text = "ab é 日本 🎉\n\0\x7f"
    assert measure_lost_text(character_tokenizer("<unk>", byte_fallback=True), [text]).num_lost == 0
    assert measure_lost_text(train_tokenizer([words(200)], 300).tokenizer, [text]).num_lost == 0


def test_unknown_token_of_each_kind_of_model() -> None:
    assert find_unknown_id(Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -2.0)], unk_id=1))) == 1
    assert find_unknown_id(Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))) == 1
    assert find_unknown_id(character_tokenizer(None)) is None


def test_words_outside_the_vocabulary_are_lost_entirely() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.normalizer = normalizers.Lowercase()
    assert measure_lost_text(tokenizer, ["Known other known"]).num_lost == len("other")


def prepare(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of preparing the text with a tokenizer of four characters."""
    character_tokenizer("<unk>").save(str(folder / "t.json"))
    (folder / "a.txt").write_text(text)
    strategy = make_strategy(folder, folder / "a.txt", f"data.tokenizer={folder}/t.json", "training.steps=1")
    prepare_data(strategy)
    assert open_data(strategy).num_train_sequences > 0
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_lost_text_is_a_warning_with_its_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = prepare(tmp_path, "abcdabcdß " * 100, caplog)
    assert warning.startswith("SW737")
    assert "11.11%" in warning
    assert "'ß'" in warning


def test_nothing_lost_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prepare(tmp_path, "abcdabcd" * 100, caplog) == []


def test_text_that_cannot_be_encoded_is_a_problem(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"known": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_text("known " * 500 + "other")
    with pytest.raises(StrategyError) as caught:
        prepare_data(make_strategy(tmp_path, tmp_path / "a.txt", f"data.tokenizer={tmp_path}/t.json"))
    assert [problem.code for problem in caught.value.problems] == ["SW740"]


def test_losing_the_larger_part_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StrategyError) as caught:
        prepare(tmp_path, "aßé日" * 100, caplog)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("SW739", "data.tokenizer")
    assert "75.00%" in problem.found
