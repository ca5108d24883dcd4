"""The fullest rank of many plans, in bytes as in rank_memory.py; what they share is worked out once."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from planner.memory.rank_memory import dispatch_bytes, held_bytes, kept_bytes, logits_bytes, overhead_bytes
from planner.plan.plan import Plan
from planner.topology.placement import Stage


@dataclass
class Peaks:
    """Parts of the memory of stages that are alike, by what they depend on."""

    _held: dict[Hashable, int] = field(default_factory=dict)
    _working: dict[Hashable, tuple[int, int]] = field(default_factory=dict)

    def held(self, alike: Hashable, stage: Stage, plan: Callable[[], Plan]) -> int:
        """State, gradients and buckets of a stage's fullest rank.

        Args:
            alike: equal for stages whose parameters, ways to share them and ZeRO stage are.
        """
        if alike not in self._held:
            self._held[alike] = held_bytes(plan(), stage)
        return self._held[alike]

    def working(self, alike: Hashable, stage: Stage, in_flight: int, plan: Callable[[], Plan]) -> int:
        """What is there beside it: activations of the micro-batches in flight, rows, logits, overhead.

        Args:
            alike: equal for stages that do the same with a micro-batch.
        """
        if alike not in self._working:
            one = plan()
            kept, once = kept_bytes(one, stage)
            more = dispatch_bytes(one, stage) + logits_bytes(one, stage) + overhead_bytes(one)
            self._working[alike] = (kept, once + more)
        kept, more = self._working[alike]
        return kept * in_flight + more
