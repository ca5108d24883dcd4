"""A small strategy over given data, and a corpus of made-up words."""

import json
import random
from pathlib import Path

from planner import Strategy, loads

TEXT = """
cluster: {hosts: 1, gpus_per_host: 4, gpu: cpu, links: {intra_host: 10 GB/s, inter_host: 10 GB/s}}
model: {num_hidden_layers: 1, num_experts: 2, hidden_size: 8, moe_intermediate_size: 8,
        num_attention_heads: 2, vocab_size: 300}
training: {seq_length: 16, global_batch: 4, steps: 5, precision: fp32}
data: {validation_sequences: 3}
"""


def make_strategy(folder: Path, path: object = None, *overrides: str) -> Strategy:
    """The strategy; its runs and its data cache are in `folder`."""
    places = [f"output.folder={folder}"]
    if path is not None:
        paths = [str(p) for p in path] if isinstance(path, (list, tuple)) else str(path)
        places.append(f"data.path={json.dumps(paths)}")
    return loads(TEXT, (*places, *overrides))


def words(num: int, seed: int = 0) -> str:
    """`num` made-up words on lines of ten, the same every time."""
    generator = random.Random(seed)
    made = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 8))) for _ in range(num)]
    return "\n".join(" ".join(made[i : i + 10]) for i in range(0, num, 10)) + "\n"


def write_corpus(folder: Path, num_documents: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_documents):
        (folder / f"{number}.txt").write_text(words(60, seed=number), encoding="utf-8")
    return folder
