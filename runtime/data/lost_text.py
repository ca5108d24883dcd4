"""Text that a tokenizer loses: characters without a token, dropped or replaced by the unknown token."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Encoding, Tokenizer

SAMPLE_BYTES = 2_000_000
NUM_EXAMPLES = 5


@dataclass(kw_only=True)
class LostText:
    """Of a sample of text: its characters but white space, and those of them that no known token covers."""

    num_characters: int = 0
    num_lost: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        return self.num_lost / max(1, self.num_characters)

    @property
    def examples(self) -> str:
        return " ".join(repr(character) for character, _ in self.lost.most_common(NUM_EXAMPLES))


def find_unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of the unknown token; None if the tokenizer has none, and drops what it does not know."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def measure_lost_text(tokenizer: Tokenizer, texts: Iterable[str]) -> LostText:
    """What the tokenizer loses of these texts. White space, which many normalize, is not counted.

    Raises:
        Exception: by tokenizers, if it has no token for a text, not even an unknown one.
    """
    unknown = find_unknown_id(tokenizer)
    result = LostText()
    dropped: dict[str, bool] = {}
    for text in texts:
        if unknown is None:
            for character in set(text) - dropped.keys():
                dropped[character] = not character.isspace() and _is_dropped(tokenizer, character)
            is_lost = np.array([dropped[character] for character in text], bool)
        else:
            is_visible = np.array([not character.isspace() for character in text], bool)
            encoding = tokenizer.encode(text, add_special_tokens=False)
            is_lost = is_visible & ~_is_covered(encoding, text, unknown)
        result.num_characters += sum(not character.isspace() for character in text)
        result.num_lost += int(is_lost.sum())
        result.lost.update(text[position] for position in np.flatnonzero(is_lost))
    return result


def _is_dropped(tokenizer: Tokenizer, character: str) -> bool:
    """Whether a tokenizer without an unknown token drops the character.

    One by one, because the offsets after a dropped character are wrong (tokenizers 0.23.3, BPE).
    """
    normalizer = tokenizer.normalizer
    kept = character if normalizer is None else normalizer.normalize_str(character)
    encoding = tokenizer.encode(character, add_special_tokens=False)
    if any(token.startswith("<0x") for token in encoding.tokens):
        return False  # byte fallback
    return not encoding.ids or kept.strip() not in tokenizer.decode(encoding.ids)


def _is_covered(encoding: Encoding, text: str, unknown: int) -> np.ndarray:
    """Whether a known token covers the character; bool [len(text)]."""
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    known = offsets[np.array(encoding.ids, np.int64) != unknown]
    changes = np.zeros(len(text) + 1, np.int64)
    np.add.at(changes, known[:, 0], 1)
    np.add.at(changes, known[:, 1], -1)
    covered: np.ndarray = np.cumsum(changes)[:-1] > 0
    return covered
