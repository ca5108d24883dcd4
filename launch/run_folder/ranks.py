"""Ranks of a run: their last steps, whether each has a file of its own or its host has one for all."""

import re
from pathlib import Path

from launch.run_folder.lines import LineTail
from launch.run_folder.records import RankRecord, parse_host, parse_rank
from planner.run_files import RANKS_NAME

_RANK_FILE = re.compile(r"rank-(\d{4,9})\.jsonl")
_HOST_FILE = re.compile(r"host-.+\.jsonl")


class RankTails:
    """The last `num_steps` steps of all ranks; a look reads what was appended since the one before.

    Args:
        tail_bytes: of each file that the first look reads.
    """

    def __init__(self, run_folder: Path, *, num_steps: int, tail_bytes: int = 1 << 20) -> None:
        self._folder, self._num_steps, self._tail_bytes = run_folder / RANKS_NAME, num_steps, tail_bytes
        self._tails: dict[Path, LineTail] = {}
        self.steps: dict[int, dict[int, RankRecord]] = {}
        self.last: dict[int, RankRecord] = {}

    def look(self) -> None:
        for path in sorted(self._folder.glob("*.jsonl")) if self._folder.is_dir() else ():
            own, host = _RANK_FILE.fullmatch(path.name), _HOST_FILE.fullmatch(path.name)
            if own is None and host is None:
                continue
            tail = self._tails.setdefault(path, LineTail(path, tail_bytes=self._tail_bytes))
            for line in tail.read():
                records = [parse_rank(line, int(own[1]))] if own else parse_host(line)
                for record in records:
                    if record is not None:
                        self._observe(record)
        for step in sorted(self.steps)[: -self._num_steps]:
            del self.steps[step]

    def _observe(self, record: RankRecord) -> None:
        before = self.last.get(record.rank)
        if before is not None and record.step <= before.step:  # repeated after a resume
            for step in [step for step in self.steps if step > record.step]:
                self.steps[step].pop(record.rank, None)
                if not self.steps[step]:
                    del self.steps[step]
        self.last[record.rank] = record
        self.steps.setdefault(record.step, {})[record.rank] = record

    @property
    def torn(self) -> tuple[str, ...]:
        """Files whose last line is not complete."""
        return tuple(path.name for path, tail in self._tails.items() if tail.is_torn)

    @property
    def num_damaged(self) -> int:
        return sum(tail.num_damaged for tail in self._tails.values())

    def newest(self, num_steps: int) -> list[dict[int, RankRecord]]:
        """The last steps, oldest first."""
        return [self.steps[step] for step in sorted(self.steps)[-num_steps:]]
