"""Weights, masters and moments of a rank, to the byte, as DeepSpeed partitions them.

DeepSpeed 0.19.8 sorts parameters into groups (those that decay, those that do not, experts), flattens each
under ZeRO 1 and 2 and cuts it into equal partitions over the ranks that hold the same parameters.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from planner.counts.parameters import ParameterTensor, stage_parameters
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan
from planner.strategy.schema import ModelShape
from planner.strategy.training import MomentPrecision, Precision
from planner.topology.placement import Stage

FP32_BYTES = 4
# DeepSpeed starts another group of experts where the next tensor would make it larger (moe/utils.py:65).
MAX_EXPERT_GROUP = 178_956_971
# Partitions begin at even elements: 4 bytes of bf16 (zero/stage_1_and_2.py:380).
_ALIGNMENT = 2
# Elements that are made fp32 at once, to be added to a sum or, on a CPU, for an update: 2 MiB, which stay in
# its cache. 2¹⁶ to 2²⁰ took the same processor time (2026-11-30), and fewer need more calls. On a GPU
# 256 MiB.
ELEMENTS_AT_ONCE, _ON_A_GPU = 2**19, 2**26
_STEP_COUNT_BYTES = 4  # Adam's count of steps, one for each tensor that it updates


def update_chunk_elements(*, is_cpu: bool) -> int:
    """Elements that the optimizer makes fp32 and updates at once."""
    return ELEMENTS_AT_ONCE if is_cpu else _ON_A_GPU


@dataclass(frozen=True, kw_only=True)
class BytesPerParameter:
    """What each parameter costs; `/ n` is cut over the n ranks that hold it (experts: expert-data-parallel).

    accumulation: where gradients of micro-batches are summed in fp32.
    """

    weight: int
    gradient: int
    accumulation: int
    master: int
    moments: int
    partitioned: frozenset[str] = frozenset()

    def total(self, ranks: int = 1) -> float:
        """Bytes a parameter that `ranks` ranks hold."""
        causes = ("weight", "gradient", "accumulation", "master", "moments")
        cut = sum(getattr(self, cause) for cause in causes if cause in self.partitioned)
        whole = sum(getattr(self, cause) for cause in causes if cause not in self.partitioned)
        return float(whole + cut / ranks)


def bytes_per_parameter(
    precision: Precision, zero: int, *, moments: MomentPrecision = "fp32", is_training: bool = True
) -> BytesPerParameter:
    """The one table of it. `zero` is the stage that DeepSpeed is given; gradients are those at their peak.

    fp8 trains bf16 weights with fp32 masters; only evaluation holds a byte a parameter. ZeRO 0 is for fp32.
    """
    both = 8 if moments == "fp32" else 4
    weight = {"fp32": 4, "bf16": 2, "fp8": 2 if is_training else 1}[precision]
    if not is_training:
        return BytesPerParameter(weight=weight, gradient=0, accumulation=0, master=0, moments=0)
    if precision == "fp32" and zero == 0:
        return BytesPerParameter(weight=4, gradient=4, accumulation=0, master=0, moments=both)
    cut = {"accumulation", "master", "moments"}
    if precision == "fp32":  # weights are their own masters (runtime/training/lean_zero.py)
        if zero == 2:
            cut.add("gradient")
        return BytesPerParameter(
            weight=4, gradient=4, accumulation=0, master=0, moments=both, partitioned=frozenset(cut)
        )
    # ZeRO 1 updates from bf16 gradients. ZeRO 2 adds each bucket to the fp32 sum at once; bf16 gradients are
    # never together.
    return BytesPerParameter(
        weight=2,
        gradient=2 if zero == 1 else 0,
        accumulation=4 if zero == 2 else 0,
        master=4,
        moments=both,
        partitioned=frozenset(cut),
    )


def partition_elements(num_elements: int, ranks: int) -> int:
    """Elements of each rank's share of a flattened group, with the padding at its end."""
    return -(-num_elements // (_ALIGNMENT * ranks)) * _ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class FlatGroup:
    """Parameters that DeepSpeed steps together; `ranks` hold the same ones and share the work under ZeRO.

    offsets: where each tensor begins in the flattened group, and where the last one ends. aligned: elements
    of the flattened group, a multiple of 2·ranks (zero/stage_1_and_2.py:441), of which each rank has a
    `partition`. largest: elements of the largest tensor.
    """

    tensors: tuple[ParameterTensor, ...]
    ranks: int
    is_expert: bool
    offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    num_elements: int = field(init=False, repr=False, compare=False)
    aligned: int = field(init=False, repr=False, compare=False)
    partition: int = field(init=False, repr=False, compare=False)
    largest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once, because a search asks for them of thousands of stages.
        offsets = tuple(accumulate((tensor.num_elements for tensor in self.tensors), initial=0))
        partition = partition_elements(offsets[-1], self.ranks)
        for name, value in (
            ("offsets", offsets),
            ("num_elements", offsets[-1]),
            ("aligned", partition * self.ranks),
            ("partition", partition),
            ("largest", max((tensor.num_elements for tensor in self.tensors), default=0)),
        ):
            object.__setattr__(self, name, value)

    def tensors_of(self, place: int) -> tuple[ParameterTensor, ...]:
        """The tensors of which a part is in the partition at `place`."""
        last = (place + 1) * self.partition
        return self.tensors[self.first_tensor_of(place) : bisect_left(self.offsets, last)]

    def first_tensor_of(self, place: int) -> int:
        """The number of the first tensor of which a part is in the partition at `place`, if there is one."""
        return max(0, bisect_right(self.offsets, place * self.partition) - 1)


@dataclass(frozen=True, kw_only=True)
class StaticState:
    """Bytes that a rank holds between steps, in tensors."""

    weights: int
    masters: int
    moments: int

    @property
    def total(self) -> int:
        return self.weights + self.masters + self.moments


def optimizer_groups(
    tensors: Iterable[ParameterTensor], data_ranks: int, expert_ranks: int
) -> tuple[FlatGroup, ...]:
    """The groups in DeepSpeed's order: decayed, kept, then experts."""
    dense: dict[bool, list[ParameterTensor]] = {True: [], False: []}
    experts: list[list[ParameterTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if not tensor.is_expert:
            dense[tensor.decays].append(tensor)
            continue
        if size + tensor.num_elements > MAX_EXPERT_GROUP and experts[-1]:
            experts.append([])
            size = 0
        experts[-1].append(tensor)
        size += tensor.num_elements
    groups = [
        FlatGroup(tensors=tuple(dense[decays]), ranks=data_ranks, is_expert=False) for decays in (True, False)
    ]
    groups += [FlatGroup(tensors=tuple(held), ranks=expert_ranks, is_expert=True) for held in experts]
    return tuple(group for group in groups if group.tensors)


def groups_of(plan: Plan, stage: Stage, tp_rank: int = 0) -> tuple[FlatGroup, ...]:
    """The groups of the ranks of a stage with one place in their TP groups."""
    return _groups(plan.strategy.model, stage, tp_rank)


@lru_cache(maxsize=4096)
def _groups(model: ModelShape, stage: Stage, tp_rank: int) -> tuple[FlatGroup, ...]:
    expert_ranks = 1 if stage.expert is None else stage.expert.size("edp")
    return optimizer_groups(stage_parameters(model, stage, tp_rank), stage.dense.size("data"), expert_ranks)


def static_state(plan: Plan, stage: Stage, groups: Sequence[FlatGroup]) -> StaticState:
    """The state of each rank of a stage that holds some groups; all its data-parallel peers' too."""
    zero = zero_stage(plan)
    training = plan.strategy.training
    each = bytes_per_parameter(training.precision, zero, moments=training.optimizer.moments)
    buffers = _buffers(plan, stage)
    if zero == 0:
        elements = sum(group.num_elements for group in groups)
        counts = _STEP_COUNT_BYTES * sum(len(group.tensors) for group in groups)
        return StaticState(
            weights=each.weight * elements + buffers, masters=0, moments=each.moments * elements + counts
        )
    partitions = sum(group.partition for group in groups)
    return StaticState(
        weights=each.weight * sum(group.aligned for group in groups) + buffers,
        masters=each.master * partitions,
        moments=each.moments * partitions + _STEP_COUNT_BYTES * len(groups),
    )


def _buffers(plan: Plan, stage: Stage) -> int:
    """The routers' biases of loss-free balancing, fp32 in every precision."""
    model = plan.strategy.model
    if plan.strategy.training.balance != "bias":
        return 0
    moe_layers = stage.num_layers(model.first_dense_layers)[1]
    return FP32_BYTES * model.num_experts * moe_layers
