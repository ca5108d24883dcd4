"""Seconds that one rank of a stage is busy: with a micro-batch forward and backward, and once a step."""

from dataclasses import dataclass, field

from planner.timing.layer_time import PassTime


@dataclass(frozen=True, kw_only=True)
class HeldParameters:
    """Parameters of a rank: elements and tensors, dense ones and experts."""

    dense: int
    experts: int
    num_tensors: int


@dataclass(frozen=True, kw_only=True)
class MicroBatchTime:
    """Both passes of one micro-batch through a stage, and the parameters that its rank holds.

    all_to_all_bytes: bytes that leave a rank per layer and direction in the forward pass.
    """

    forward: PassTime
    backward: PassTime
    all_to_all_bytes: float
    held: HeldParameters
    total_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_s", self.forward.total_s + self.backward.total_s)


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Seconds of a stage's slowest rank: of one micro-batch, and the rest of a step.

    checks_s: of other_s, what comparing copies takes (runtime.check_replicas_every), on average.
    reduce_hidden_s: of gradient_reduce_s, what runs beside backward passes (runtime.overlap_reduce).
    all_to_all_hidden_s: of each micro-batch but one, what runs beside another's compute (overlap_all_to_all).
    """

    micro_batch: MicroBatchTime
    gradient_reduce_s: float
    optimizer_s: float
    data_s: float
    other_s: float
    checks_s: float = 0.0
    reduce_hidden_s: float = 0.0
    all_to_all_hidden_s: float = 0.0

    @property
    def forward(self) -> PassTime:
        return self.micro_batch.forward

    @property
    def backward(self) -> PassTime:
        return self.micro_batch.backward

    @property
    def after_s(self) -> float:
        """What follows the last micro-batch where nothing overlaps."""
        return self.gradient_reduce_s + self.optimizer_s + self.data_s + self.other_s

    @property
    def exposed_after_s(self) -> float:
        """Of it, what no backward pass hides."""
        return self.after_s - self.reduce_hidden_s

    @property
    def later_s(self) -> float:
        """What each micro-batch after the first adds."""
        return self.micro_batch.total_s - self.all_to_all_hidden_s
