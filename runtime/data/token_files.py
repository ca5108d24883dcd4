"""Files of token ids, as nanoGPT, Megatron-LM and llm.c store them: numbers of 16 or 32 bits, no text."""

from collections import Counter

import numpy as np

FROM_TOKENS = (
    "write the text that it was made from, as text, JSON lines or Parquet, with the program that made it: "
    "the ids mean nothing without their tokenizer"
)
MIN_NUMBERS = 32
MAX_VOCABULARY = 1 << 20
# Of all numbers, those that are the most frequent one: a few percent of tokens, far less of random bytes.
MIN_REPEATED = 0.02


def are_token_ids(part: bytes) -> bool:
    """Whether the bytes are unsigned numbers of 16 or 32 bits of which some come often, as words do.

    Compressed or random bytes give every number about as often. Images and sound have many small numbers too,
    but a head that their first bytes tell (binary.py).
    """
    for width in (4, 2):
        numbers = np.frombuffer(part[: len(part) // width * width], f"<u{width}")
        if len(numbers) < MIN_NUMBERS:
            return False
        if width == 4 and int(numbers.max()) >= MAX_VOCABULARY:
            continue
        counts = Counter(numbers.tolist())
        most = counts.most_common(1)[0][1]
        num_distinct = len(counts)
        is_repeated = MIN_REPEATED * len(numbers) <= most <= 0.5 * len(numbers)
        if is_repeated and num_distinct > 8 and num_distinct <= 0.9 * len(numbers):
            return True
    return False
