"""Tokenizers: trained ones, published ones, and the Problems of unusable ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from planner import Problem
from runtime.data.tokenizer import (
    TokenizerUnusable,
    check_ids,
    check_vocab_size,
    load_tokenizer,
    train_tokenizer,
)
from tests.support.data_strategies import words

TEXTS = [words(2000, seed) for seed in range(3)]


def word_tokenizer(*entries: str) -> Tokenizer:
    """One id for each entry, in order."""
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=entries[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def problem_of(call: Callable[..., object], *arguments: object) -> Problem:
    with pytest.raises(TokenizerUnusable) as caught:
        call(*arguments)
    return caught.value.problem


# Special tokens of the vocabulary, the class that its fix names, and the end of a text of that class.
BARE = {
    "GPT2Tokenizer": (["<|endoftext|>"], "<|endoftext|>"),
    "RobertaTokenizer": (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "</s>"),
    "Qwen2Tokenizer": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>"),
}


@pytest.mark.parametrize("name", BARE)
def test_vocabulary_of_an_unknown_class_is_read_after_the_fix(tmp_path: Path, name: str) -> None:
    special, end = BARE[name]
    folder = tmp_path / "a tok"
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    problem = problem_of(load_tokenizer, folder)
    assert (problem.code, name in problem.fix) == ("SW732", True)
    assert "\n" not in problem.found
    subprocess.run(["bash", "-c", problem.fix.partition(": ")[2]], check=True)
    coder = load_tokenizer(folder)
    assert coder.tokenizer.encode(TEXTS[0], add_special_tokens=False).ids == tokenizer.encode(TEXTS[0]).ids
    assert coder.end_of_text == tokenizer.token_to_id(end)


def test_vocabulary_of_words_is_read_after_the_fix(tmp_path: Path) -> None:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    problem = problem_of(load_tokenizer, tmp_path)
    subprocess.run(["bash", "-c", problem.fix.partition(": ")[2]], check=True)
    coder = load_tokenizer(tmp_path)
    assert coder.tokenizer.encode("the rivers", add_special_tokens=False).ids == [5, 6, 7]
    assert coder.end_of_text == 3


@pytest.mark.parametrize(("name", "missing"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")])
def test_half_of_a_vocabulary_names_the_other_half(tmp_path: Path, name: str, missing: str) -> None:
    (tmp_path / name).write_text("{}")
    problem = problem_of(load_tokenizer, tmp_path)
    assert (problem.code, problem.fix) == ("SW732", f"copy {missing} from where {name} came from")


def test_reason_of_transformers_is_one_short_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / "vocab.json").write_text("[1, 2")
    problem = problem_of(load_tokenizer, tmp_path)
    assert (problem.code, "\n" in problem.found) == ("SW732", False)
    assert len(problem.found) < 400


@pytest.mark.parametrize(
    "text", ["plain", "日本語 🎉 é", "\0\x7f\n\t ", "<|endoftext|>", "a" * 3000], ids=repr
)
def test_any_text_decodes_to_itself(text: str) -> None:
    coder = train_tokenizer(TEXTS, 300)
    ids = coder.tokenizer.encode(text).ids
    assert coder.tokenizer.decode(ids) == text
    assert coder.end_of_text not in ids


def test_vocabulary_is_full_or_as_large_as_the_text_allows() -> None:
    assert train_tokenizer(TEXTS, 500).num_ids == 500
    assert train_tokenizer(["ab"], 500).num_ids == 257  # one pair, seen once: nothing to merge


def test_smallest_vocabulary_is_the_bytes_and_the_end() -> None:
    check_vocab_size(257)
    assert train_tokenizer(TEXTS, 257).num_ids == 257
    problem = problem_of(check_vocab_size, 256)
    assert (problem.code, problem.path) == ("SW735", "model.vocab_size")


def test_training_gives_the_same_in_another_process() -> None:
    program = (
        "from runtime.data.tokenizer import train_tokenizer; from tests.support.data_strategies import words;"
        "print(train_tokenizer([words(2000, seed) for seed in range(3)], 400).hash)"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert there.stdout.strip() == train_tokenizer(TEXTS, 400).hash


def test_training_on_a_huge_word_finishes() -> None:
    """Uncut, such a word takes minutes."""
    assert train_tokenizer(["a" * 1_000_000, " " * 1_000_000], 300).num_ids < 300


def test_hash_depends_on_content_not_on_the_format_of_the_file(tmp_path: Path) -> None:
    coder = train_tokenizer(TEXTS, 300)
    content = json.loads(coder.tokenizer.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "old.json").hash == coder.hash
    assert train_tokenizer(TEXTS, 301).hash != coder.hash


def test_tokenizer_json_without_configuration_uses_a_known_end(tmp_path: Path) -> None:
    word_tokenizer("<unk>", "a", "</s>").save(str(tmp_path / "t.json"))
    assert load_tokenizer(tmp_path / "t.json").end_of_text == 2


@pytest.mark.parametrize("token", ["stop", {"content": "stop", "lstrip": False}])
def test_folder_says_which_token_ends_a_text(tmp_path: Path, token: object) -> None:
    word_tokenizer("<unk>", "</s>", "stop").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert load_tokenizer(tmp_path).end_of_text == 2


def test_truncation_padding_and_template_of_a_published_tokenizer_are_off(tmp_path: Path) -> None:
    tokenizer = word_tokenizer("<unk>", "a", "</s>")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path).tokenizer
    assert loaded.encode_batch_fast(["a a a a"], add_special_tokens=False)[0].ids == [1, 1, 1, 1]


def test_folder_of_a_slow_tokenizer_is_converted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    coder = train_tokenizer(TEXTS, 300)
    coder.tokenizer.model.save(str(tmp_path))  # vocab.json and merges.txt, as GPT-2 was published
    configuration = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configuration))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    loaded = load_tokenizer(tmp_path)
    assert loaded.end_of_text == coder.end_of_text
    assert loaded.tokenizer.encode(TEXTS[0]).ids == coder.tokenizer.encode(TEXTS[0]).ids


def test_unusable_tokenizer_files_are_problems(tmp_path: Path) -> None:
    assert problem_of(load_tokenizer, tmp_path / "none").code == "SW731"
    (tmp_path / "bad.json").write_text('{"model": 1}')
    assert problem_of(load_tokenizer, tmp_path / "bad.json").code == "SW732"
    (tmp_path / "empty").mkdir()
    assert problem_of(load_tokenizer, tmp_path / "empty").code == "SW732"
    word_tokenizer("<unk>", "a").save(str(tmp_path / "endless.json"))
    assert problem_of(load_tokenizer, tmp_path / "endless.json").code == "SW733"


def test_end_of_text_outside_the_vocabulary_is_a_problem(tmp_path: Path) -> None:
    word_tokenizer("<unk>", "</s>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<gone>"}')
    problem = problem_of(load_tokenizer, tmp_path)
    assert problem.code == "SW733"
    assert "'<gone>'" in problem.found
    (tmp_path / "tokenizer_config.json").write_text("{")
    problem = problem_of(load_tokenizer, tmp_path)
    assert problem.code == "SW732"
    assert "JSONDecodeError" in problem.found


def test_id_beyond_the_vocabulary_is_a_problem_even_above_a_gap(tmp_path: Path) -> None:
    content = json.loads(word_tokenizer("<unk>", "a").to_str())
    content["model"]["vocab"]["</s>"] = 9
    (tmp_path / "t.json").write_text(json.dumps(content))
    coder = load_tokenizer(tmp_path / "t.json")
    check_ids(coder, 10)
    problem = problem_of(check_ids, coder, 9)
    assert problem.code == "SW734"
    assert "largest id is 9" in problem.found
    assert "at least 10" in problem.fix


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "T5Tokenizer", "GPT2Tokenizer"])
def test_folder_without_a_vocabulary_is_a_problem(tmp_path: Path, tokenizer_class: str) -> None:
    """transformers makes a tokenizer of special tokens from a configuration alone."""
    pytest.importorskip("transformers")
    configuration = {"tokenizer_class": tokenizer_class, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configuration))
    problem = problem_of(load_tokenizer, tmp_path)
    assert (problem.code, problem.path) == ("SW738", "data.tokenizer")
    assert "tokenizer.json" in problem.fix


def test_a_tokenizer_without_end_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "tokenizer.json").symlink_to("/dev/zero")
    for path in (Path("/dev/zero"), tmp_path / "folder" / "tokenizer.json"):
        problem = problem_of(load_tokenizer, path)
        assert (problem.code, problem.found) == ("SW732", f"{path} is not a file")


def test_model_of_sentencepiece_names_the_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.data.tokenizer.find_spec", lambda name: None)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    problem = problem_of(load_tokenizer, tmp_path)
    assert (problem.code, problem.fix) == ("SW743", "pip install sentencepiece")
    assert "tokenizer.model" in problem.found
