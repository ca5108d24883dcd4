"""Rank records of a large world, gathered per host: ranks/host-NAME.jsonl, not a file for each rank.

Thousands of ranks that each keep a file open on a shared file system are a load of their own. The ranks of a
host put their record of a step into memory that they share, and the host's lowest rank appends one line for
all. No collective is needed: a step ends with one over the world, so when the lowest rank has finished step
s, every rank has recorded step s - 1, and none has begun step s + 1's record. Hence two places for each rank.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.files.json_lines import LineFile

# From so many ranks on.
GATHER_FROM = 256
# After the last step no collective says that the others have recorded it.
_LAST_WAIT_S = 5.0


class HostRecords:
    """One rank's part of its host's file.

    Args:
        folder: shared by the ranks of this host, and by nobody else; in memory.
        rank, ranks: this one, and those of its host, ascending; the first of them writes.
        stages: of each of those ranks, by name.
    """

    def __init__(
        self, path: Path, folder: Path, *, rank: int, ranks: Sequence[int], stages: Mapping[int, str]
    ) -> None:
        self._folder, self._rank, self._ranks, self._stages = folder, rank, tuple(ranks), stages
        self._file = LineFile(path) if rank == self._ranks[0] else None
        self._pending: int | None = None  # the step whose line is not written yet

    def append(self, fields: Mapping[str, Any]) -> None:
        """Records a step of this rank, whose number is fields["step"]."""
        step = int(fields["step"])
        path = self._place(self._rank, step)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(fields))
        temporary.replace(path)
        if self._pending is not None:
            self._write(self._pending)
        self._pending = step

    def close(self, *, is_complete: bool) -> None:
        """Writes what is left; is_complete: whether the other ranks have come to the same step."""
        if self._file is None:
            return
        if self._pending is not None:
            deadline = time.monotonic() + (_LAST_WAIT_S if is_complete else 0.0)
            while len(self._found(self._pending)) < len(self._ranks) and time.monotonic() < deadline:
                time.sleep(0.01)
            self._write(self._pending)
        self._file.close()
        for rank in self._ranks:
            for step in (0, 1):
                with contextlib.suppress(OSError):
                    self._place(rank, step).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _place(self, rank: int, step: int) -> Path:
        return self._folder / f"record-{rank:05d}-{step % 2}.json"

    def _found(self, step: int) -> dict[int, dict[str, Any]]:
        """The records of the host's ranks that have come to this step."""
        found = {}
        for rank in self._ranks:
            try:
                record = json.loads(self._place(rank, step).read_bytes())
            except (OSError, ValueError):
                continue
            if record.get("step") == step:
                found[rank] = record
        return found

    def _write(self, step: int) -> None:
        if self._file is None:
            return
        found = self._found(step)
        records = list(found.values())
        experts: dict[str, list[list[int]]] = {}
        for rank, record in found.items():
            stage, tokens = self._stages[rank], record["expert_tokens"]
            experts[stage] = _sum(experts[stage], tokens) if stage in experts else tokens
        self._file.append(
            {
                "step": step,
                "ranks": list(found),
                "phases_s": {
                    name: [record["phases_s"][name] for record in records] for name in records[0]["phases_s"]
                },
                "memory_bytes": [record["memory_bytes"] for record in records],
                "communication_share": [record["communication_share"] for record in records],
                "gpu": [record["gpu"] for record in records],
                "expert_tokens": experts,
                "attempt": records[0]["attempt"],
            }
        )


def _sum(one: list[list[int]], other: list[list[int]]) -> list[list[int]]:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]
