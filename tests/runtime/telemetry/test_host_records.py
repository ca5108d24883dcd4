"""A host's file in a large world: one line a step for all its ranks, however their steps interleave."""

import json
import time
from pathlib import Path
from typing import Any

from runtime.telemetry.host_records import HostRecords

RANKS = (256, 257, 258)
STAGES = {256: "a", 257: "b", 258: "b"}


def record(rank: int, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "phases_s": {"compute": rank / 1000, "other": 0.0},
        "memory_bytes": rank,
        "communication_share": 0.5,
        "gpu": None,
        "expert_tokens": [[step, rank]],
        "attempt": 2,
    }


def opened(tmp_path: Path) -> dict[int, HostRecords]:
    path, folder = tmp_path / "ranks" / "host-n32.jsonl", tmp_path / "memory"
    return {rank: HostRecords(path, folder, rank=rank, ranks=RANKS, stages=STAGES) for rank in RANKS}


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "ranks" / "host-n32.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_every_rank_of_the_host(tmp_path: Path) -> None:
    ranks = opened(tmp_path)
    for step in (1, 2, 3):
        for rank in (256, 257, 258) if step % 2 else (258, 257, 256):  # the writer first, or last
            ranks[rank].append(record(rank, step))
    for rank in (257, 258, 256):
        ranks[rank].close(is_complete=True)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[1] == {
        "step": 2,
        "ranks": [256, 257, 258],
        "phases_s": {"compute": [0.256, 0.257, 0.258], "other": [0.0, 0.0, 0.0]},
        "memory_bytes": [256, 257, 258],
        "communication_share": [0.5, 0.5, 0.5],
        "gpu": [None, None, None],
        "expert_tokens": {"a": [[2, 256]], "b": [[4, 515]]},
        "attempt": 2,
    }
    assert not (tmp_path / "memory").exists()


def test_a_rank_that_died_is_not_in_the_line_and_nobody_waits_for_it(tmp_path: Path) -> None:
    ranks = opened(tmp_path)
    for rank in RANKS:
        ranks[rank].append(record(rank, 1))
    for rank in (256, 258):
        ranks[rank].append(record(rank, 2))
    began = time.monotonic()
    ranks[256].close(is_complete=False)
    assert time.monotonic() - began < 2.0
    assert [line["ranks"] for line in lines(tmp_path)] == [[256, 257, 258], [256, 258]]


def test_what_an_earlier_attempt_left_is_no_record_of_this_one(tmp_path: Path) -> None:
    for rank in RANKS:
        opened(tmp_path)[rank].append(record(rank, 7))
    ranks = opened(tmp_path)
    ranks[256].append(record(256, 8))
    ranks[256].close(is_complete=False)
    assert [(line["step"], line["ranks"]) for line in lines(tmp_path)] == [(8, [256])]
