"""Partial strategy: some keys are faulty; a rule may read the others and stops at these."""

from typing import Any, cast

from pydantic import BaseModel

from planner.strategy.schema import Strategy

# A small legal value for every required key; no rule sees one, because faulty keys cannot be read.
STAND_IN: dict[str, Any] = {
    "cluster": {
        "hosts": 1,
        "gpus_per_host": 1,
        "gpu": {"memory": "1 GB", "memory_bandwidth": "1 TB/s", "peak": {"bf16": "1 TFLOPS"}},
        "links": {"intra_host": "1 Gbps", "inter_host": "1 Gbps"},
    },
    "model": {
        "num_hidden_layers": 1,
        "num_experts": 1,
        "hidden_size": 2,
        "moe_intermediate_size": 1,
        "num_attention_heads": 1,
        "vocab_size": 2,
    },
    "training": {"seq_length": 1, "global_batch": 1, "steps": 1},
}

# keys whose defaults follow from others, and are as unknown as these
DERIVED = {
    ("training", "steps"): {
        ("training", "tokens"),
        ("training", "global_batch"),
        ("training", "seq_length"),
    },
    ("model", "num_key_value_heads"): {("model", "num_attention_heads")},
    ("model", "head_dim"): {("model", "num_attention_heads"), ("model", "hidden_size")},
}


class UnknownValueError(Exception):
    """A rule read a key whose value is faulty."""


class PartialStrategy:
    """A view of a section whose keys at (or below) `faulty` cannot be read; `reads`: those that were."""

    def __init__(
        self,
        section: BaseModel,
        faulty: frozenset[tuple[str, ...]],
        path: tuple[str, ...] = (),
        reads: set[tuple[str, ...]] | None = None,
    ) -> None:
        self._section = section
        self._faulty = faulty
        self._path = path
        self.reads: set[tuple[str, ...]] = set() if reads is None else reads

    @property
    def section(self) -> BaseModel:
        """What is viewed, faulty keys and all."""
        return self._section

    def of(self, section: BaseModel) -> "PartialStrategy":
        """The same view of another strategy, with reads of its own."""
        return PartialStrategy(section, self._faulty)

    def as_strategy(self) -> Strategy:
        """Itself under the type that rules are written for."""
        return cast(Strategy, self)

    def __getattr__(self, name: str) -> Any:
        path = (*self._path, name)
        if any(path[: len(faulty)] == faulty for faulty in self._faulty):
            raise UnknownValueError(".".join(path))
        attribute = getattr(type(self._section), name, None)
        if isinstance(attribute, property):
            assert attribute.fget is not None
            return attribute.fget(self)  # so that what it reads is checked too
        value = getattr(self._section, name)
        if isinstance(value, BaseModel):
            return PartialStrategy(value, self._faulty, path, self.reads)
        self.reads.add(path)
        return value
