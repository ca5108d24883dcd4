"""Tokenizers: a byte-level BPE trained on the corpus, or a Hugging Face tokenizer."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from planner.problems import Problem
from planner.units import shorten
from runtime.data.tokenizer_class import find_unknown_class

END_OF_TEXT = "<|endoftext|>"
NUM_BYTES = 256  # every byte is a token, so that no text is unknown
# How much text the merges are learned from. 8 MB of the standard library's 12 MB give 0.1 % more tokens than
# all of it (3,484,070 instead of 3,480,828 at 4,096 entries) in 1.7 s instead of 2.5 (tokenizers 0.23.3,
# 2 cores). A larger vocabulary has rarer entries: 2 kB for each.
MIN_SAMPLE_BYTES = 8_000_000
SAMPLE_BYTES_PER_ENTRY = 2_000
# The trainer's time is quadratic in the length of a word: one of 1 MB took ten minutes. Longer runs are cut,
# for training only (tokenizers 0.23.3; every BPE merge rewrites the word).
LONG_RUN = re.compile(r"\S{256}|\s{256}")
TOKENIZER_FILES = ("tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "config.json")
MAX_WHY = 200  # characters of another program's reason
SPACE = "▁"  # of a SentencePiece model, which transformers adds to an empty vocabulary too
# End-of-text tokens of published tokenizers, for a tokenizer.json without tokenizer_config.json.
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True, kw_only=True)
class TextCoder:
    """A tokenizer and its end-of-text token.

    A document that contains the text of a special token is encoded as plain text: `encode_special_tokens`.
    """

    tokenizer: Tokenizer
    end_of_text: int

    @property
    def num_ids(self) -> int:
        """The largest id plus one; more than the vocabulary's size if it has gaps."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides how text is encoded, independent of the library's version."""
        content = json.loads(self.tokenizer.to_str())
        for key in ("version", "truncation", "padding", "post_processor"):
            content.pop(key, None)
        merges = content["model"].get("merges")
        if merges:  # "a b" until tokenizers 0.20, ["a", "b"] since
            content["model"]["merges"] = [m.split(" ") if isinstance(m, str) else m for m in merges]
        content["end_of_text"] = self.end_of_text
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class TokenizerUnusable(Exception):
    """The tokenizer cannot be used; carries the Problem."""

    def __init__(self, code: str, found: str, expected: str, fix: str, path: str = "data.tokenizer") -> None:
        self.problem = Problem(code=code, path=path, found=found, expected=expected, fix=fix)
        super().__init__(str(self.problem))


def check_vocab_size(vocab_size: int) -> None:
    """Raises TokenizerUnusable if `vocab_size` is too small for a byte-level BPE."""
    if vocab_size <= NUM_BYTES:
        found = f"{vocab_size} is too small for a byte-level tokenizer"
        expected = f"at least {NUM_BYTES + 1}: one for each byte, one for the end of text"
        fix = f"set model.vocab_size to {NUM_BYTES + 1} or more"
        raise TokenizerUnusable("SW735", found, expected, fix, "model.vocab_size")


def check_ids(coder: TextCoder, vocab_size: int) -> None:
    """Raises TokenizerUnusable if the tokenizer has ids without an embedding in the model."""
    if coder.num_ids > vocab_size:
        found = f"its largest id is {coder.num_ids - 1}, but model.vocab_size is {vocab_size}"
        expected = f"ids below {vocab_size}"
        fix = f"set model.vocab_size to at least {coder.num_ids}, or choose another tokenizer"
        raise TokenizerUnusable("SW734", found, expected, fix)


def sample_bytes(vocab_size: int) -> int:
    return max(MIN_SAMPLE_BYTES, SAMPLE_BYTES_PER_ENTRY * vocab_size)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> TextCoder:
    """Trains a byte-level BPE of at most `vocab_size` entries; fewer if the texts have no pair left to merge.

    The same texts give the same tokenizer, in any process and with any number of threads.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((run for text in texts for run in _bounded_runs(text)), trainer)
    return _coder(tokenizer, END_OF_TEXT)


def load_tokenizer(path: Path) -> TextCoder:
    """Reads a tokenizer.json, or a Hugging Face folder with one or with files that transformers converts.

    Raises:
        TokenizerUnusable: if there is none, it is damaged, or its end-of-text token is not known.
    """
    expected = "a tokenizer.json, or a folder written by a Hugging Face tokenizer's save_pretrained"
    path = path.expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if path.is_dir() and not file.is_file():
            return _load_with_transformers(path)
        if file.exists() and not file.is_file():  # a device has no end
            raise TokenizerUnusable(
                "SW732", f"{file} is not a file", expected, "choose another file or folder"
            )
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        return _coder(tokenizer, _end_of_text(file.parent, tokenizer))
    except FileNotFoundError as error:
        found = f"no file or folder {path} in {Path.cwd()}"
        fix = "correct the path; download a tokenizer of the Hugging Face Hub first"
        raise TokenizerUnusable("SW731", found, expected, fix) from error
    except TokenizerUnusable:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        why = shorten(" ".join(str(error).split()), MAX_WHY)
        found = f"{path} is not a tokenizer: {type(error).__name__}: {why}"
        raise TokenizerUnusable("SW732", found, expected, "choose another file or folder") from error


def read_coder(file: Path, end_of_text: int) -> TextCoder:
    """Reads a tokenizer that this program wrote."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    return TextCoder(tokenizer=tokenizer, end_of_text=end_of_text)


def _bounded_runs(text: str) -> Iterator[str]:
    start = 0
    for run in LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    if start < len(text):
        yield text[start:]


def _coder(tokenizer: Tokenizer, end_of_text: str) -> TextCoder:
    # A published file may enable truncation or padding: right for prompts, wrong for a corpus.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    if not tokenizer.get_vocab(with_added_tokens=True).keys() - special - {SPACE}:
        found = f"no vocabulary: its only entries are {len(special)} special tokens"
        fix = "copy tokenizer.json or the vocabulary's files (tokenizer.model, vocab.json, merges.txt) to it"
        raise TokenizerUnusable("SW738", found, "a tokenizer with a vocabulary", fix)
    token_id = tokenizer.token_to_id(end_of_text)
    if token_id is None:
        found = f"its end-of-text token {end_of_text!r} is not in its vocabulary"
        fix = "correct eos_token in tokenizer_config.json"
        raise TokenizerUnusable("SW733", found, "an end-of-text token with an id", fix)
    return TextCoder(tokenizer=tokenizer, end_of_text=token_id)


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> str:
    """`eos_token` of the configuration next to the tokenizer, or one of the well-known names."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if file.is_file():
            read: Any = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
            token: object = read.get("content") if isinstance(read, dict) else read
            if isinstance(token, str):
                return token
    for token in KNOWN_ENDS:
        if tokenizer.token_to_id(token) is not None:
            return token
    found = f"no end-of-text token known for the tokenizer in {folder}"
    expected = f"eos_token in tokenizer_config.json, or one of {', '.join(KNOWN_ENDS)} in the vocabulary"
    fix = 'write {"eos_token": "…"} to tokenizer_config.json next to it'
    raise TokenizerUnusable("SW733", found, expected, fix)


def _load_with_transformers(folder: Path) -> TextCoder:
    """Lets transformers convert a folder with vocab.json and merges.txt, or a SentencePiece model."""
    models = [path.name for path in sorted(folder.glob("*.model"))]
    if models and find_spec("sentencepiece") is None:
        found = f"{models[0]} in {folder} is a SentencePiece model, but the package sentencepiece is missing"
        expected = "a tokenizer.json, or the package that reads the model"
        raise TokenizerUnusable("SW743", found, expected, "pip install sentencepiece")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES) and not models:
        found = f"{folder} holds no file of a tokenizer"
        expected = "a tokenizer.json, or a folder written by a Hugging Face tokenizer's save_pretrained"
        raise TokenizerUnusable("SW732", found, expected, "name the folder of a tokenizer")
    unknown = None if models else find_unknown_class(folder)
    if unknown is not None:
        expected = "a tokenizer.json, or tokenizer_class in tokenizer_config.json beside a vocabulary"
        raise TokenizerUnusable("SW732", unknown.found, expected, unknown.fix)
    from transformers import AutoTokenizer  # takes seconds to import

    auto = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    backend = getattr(auto, "backend_tokenizer", None)
    if backend is None or auto.eos_token is None:
        missing = "eos_token" if backend is not None else "fast implementation"
        found = f"the {type(auto).__name__} in {folder} has no {missing}"
        fix = "write it with save_pretrained of a fast tokenizer that has an eos_token"
        raise TokenizerUnusable("SW736", found, "a fast tokenizer with an end-of-text token", fix)
    return _coder(backend, auto.eos_token)
