"""Table of counted operations: coefficients by precision, module and pass, and the ranges counted over."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.counts.rank_workload import RankWorkload
from planner.yaml12 import Document

PATH = Path(__file__).parent / "op_table.yaml"


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Of one pass of a module: operations by name of operation_counts, bytes by name of element_sizes."""

    operations: tuple[tuple[str, float], ...]
    num_bytes: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class OpTable:
    """by: what counted it. ranges: least and largest value of each number that the shapes varied."""

    by: str
    ranges: dict[str, tuple[int, int]]
    coefficients: dict[tuple[str, str, bool], Coefficients]  # precision, module, is_backward

    def outside(self, p: RankWorkload) -> tuple[str, ...]:
        """Which of a rank's numbers were not counted over, each with its range."""
        return tuple(
            f"{key} {value:,} ({self.ranges[key][0]:,} to {self.ranges[key][1]:,})"
            for key, value in counted_values(p).items()
            if not self.ranges[key][0] <= value <= self.ranges[key][1]
        )


def counted_values(p: RankWorkload) -> dict[str, int]:
    """The numbers that shapes differ in, by their keys."""
    model = p.model
    found = {
        key: getattr(model, key)
        for key in (
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "num_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "num_shared_experts",
            "vocab_size",
        )
    }
    return {**found, "tokens": p.tokens}


@lru_cache(maxsize=1)
def op_table() -> OpTable:
    """The shipped table."""
    document = Document(PATH.read_text(encoding="utf-8"), str(PATH))
    assert document.root is not None, document.problems
    plain: dict[str, Any] = document.root.plain()
    counted = plain.pop("counted")
    return OpTable(
        by=counted["by"],
        ranges={key: (low, high) for key, (low, high) in counted["ranges"].items()},
        coefficients={
            (precision, module, name == "backward"): Coefficients(
                operations=tuple(own["operations"].items()), num_bytes=tuple(own["bytes"].items())
            )
            for precision, modules in plain.items()
            for module, passes in modules.items()
            for name, own in passes.items()
        },
    )
