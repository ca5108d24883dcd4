"""Run context of one rank: what it was started with, and what it has joined, claimed and saved since."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planner import Plan
from runtime.process.identity import Identity
from runtime.process.pulse import Pulse
from runtime.process.start import Start
from runtime.process.stop_signals import StopRequest

if TYPE_CHECKING:
    from torch.distributed import Store


@dataclass(kw_only=True)
class RunContext:
    """One rank's run. The last four fields are filled on the way, in this order.

    start: what the process was started with. folder: the run's; None while there is no plan to name it.
    takes_over: whether the run may be taken from a process that still trains it.
    store: the rendezvous store of all ranks. attempt: once the run is claimed. pulse: from then on.
    checkpoint: the step last saved, or resumed from, by this attempt.
    """

    start: Start
    folder: Path | None
    takes_over: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    store: Store | None = None
    attempt: int | None = None
    pulse: Pulse | None = None
    checkpoint: int | None = None

    @property
    def identity(self) -> Identity:
        return self.start.identity

    @property
    def rank(self) -> int:
        return self.start.identity.rank

    @property
    def plan(self) -> Plan:
        """Of a strategy without Problems: no rank gets further than the agreement without one."""
        assert self.start.plan is not None, "the strategy has Problems"
        return self.start.plan
