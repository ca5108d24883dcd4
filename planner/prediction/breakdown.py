"""Phase breakdown of a predicted step by stage, and the bottleneck in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.plan.plan import Plan
from planner.timing.pipeline_time import StagePhases
from planner.timing.stage_time import StageTime
from planner.units import milliseconds

PHASES = (
    "data",
    "compute",
    "all_to_all",
    "tensor_parallel",
    "stage_wait",
    "gradient_reduce",
    "optimizer",
    "other",
)
COMMUNICATION = ("all_to_all", "tensor_parallel", "stage_wait", "gradient_reduce")
USEFUL = ("compute", "optimizer")
_WORDS = {
    "all_to_all": "EP all-to-all",
    "tensor_parallel": "TP collectives",
    "stage_wait": "P2P between stages",
    "gradient_reduce": "gradient reduction and weight all-gather over data-parallel ranks",
    "compute": "compute",
    "optimizer": "optimizer",
}


@dataclass(frozen=True, kw_only=True)
class StagePrediction:
    """One stage: its slowest rank's busy time, and that rank's phases in the expected step.

    transfer_in_s: of one micro-batch's activations from the stage before, one way; 0 for the first.
    """

    name: str
    num_ranks: int
    time: StageTime
    phases: StagePhases
    transfer_in_s: float

    @property
    def utilization(self) -> float:
        return self.phases.share(*USEFUL)

    @property
    def communication_share(self) -> float:
        return self.phases.share(*COMMUNICATION)


def narrow_links_s(plan: Plan, stages: Sequence[StagePrediction]) -> dict[str, float]:
    """Seconds of a step in which a stage's links are busy: its own collectives, and the P2P transfers whose
    narrower end it is."""
    names = ("all_to_all", "tensor_parallel", "gradient_reduce")
    return {
        stage.name: sum(stage.phases.phases_s[name] for name in names) + _own_transfers_s(plan, stages, i)
        for i, stage in enumerate(stages)
    }


def bottleneck(plan: Plan, stages: Sequence[StagePrediction], step_s: float) -> str:
    """The busiest resource of the step: links or compute of a stage, with its largest parts.

    A P2P transfer counts towards the links of the end with fewer ranks, which carry every byte.
    """
    busy: list[tuple[float, int, dict[str, float]]] = []
    for i, stage in enumerate(stages):
        phases = stage.phases.phases_s
        links = {name: phases[name] for name in ("all_to_all", "tensor_parallel", "gradient_reduce")}
        links["stage_wait"] = _own_transfers_s(plan, stages, i)
        busy.append((sum(links.values()), i, links))
        work = {name: phases[name] for name in USEFUL}
        busy.append((sum(work.values()), i, work))
    seconds, i, parts = max(busy, key=lambda item: item[0])
    stage = stages[i]
    whose = f"the {stage.num_ranks} {stage.name} ranks" if len(stages) > 1 else "all ranks"
    if stage.num_ranks == 1 and len(stages) == 1:
        whose = "the only rank"
    what = "compute" if "compute" in parts else "links"
    most = sorted(((s, name) for name, s in parts.items() if s >= 0.1 * seconds), reverse=True)
    detail = ", ".join(f"{_WORDS[name]} {milliseconds(s)} ms" for s, name in most)
    if "compute" in parts:
        cause, share = _largest_cause(stage, plan.batch.accumulation)
        detail += f"; {share:.0%} of compute is {cause}"
    return f"{what} of {whose}: {milliseconds(seconds)} of {milliseconds(step_s)} ms per step ({detail})"


def _own_transfers_s(plan: Plan, stages: Sequence[StagePrediction], i: int) -> float:
    """Both ways and all micro-batches, of the boundaries whose narrower end stage i is."""
    seconds = 0.0
    if i > 0 and stages[i].num_ranks < stages[i - 1].num_ranks:
        seconds += stages[i].transfer_in_s
    if i + 1 < len(stages) and stages[i].num_ranks <= stages[i + 1].num_ranks:
        seconds += stages[i + 1].transfer_in_s
    return 2 * plan.batch.accumulation * seconds


def _largest_cause(stage: StagePrediction, accumulation: int) -> tuple[str, float]:
    causes = compute_causes(stage, accumulation)
    name, seconds = causes[0]
    return name, seconds / sum(s for _, s in causes)


def step_causes(plan: Plan, stages: Sequence[StagePrediction]) -> dict[str, float]:
    """Seconds of a step by kind of cause, means over ranks, which sum to the step."""
    found: dict[str, float] = {}
    for stage in stages:
        weight = stage.num_ranks / plan.world_size
        own = {name: s for name, s in stage.phases.phases_s.items() if name != "compute"}
        for cause, seconds in (*own.items(), *compute_causes(stage, plan.batch.accumulation)):
            kind = _kind_of(cause)
            found[kind] = found.get(kind, 0.0) + weight * seconds
    return found


def _kind_of(cause: str) -> str:
    """Of a phase of telemetry, or of a cause of compute ("matmul: experts")."""
    kind = cause.partition(":")[0]
    return _KINDS.get(kind, kind)


_KINDS = {
    "matmul": "matmuls",
    "memory-bound": "memory-bound operations",
    "waiting for kernel launches": "issuing operations",  # of a GPU; a CPU rank issues them itself
    "all_to_all": "all-to-all",
    "tensor_parallel": "TP collectives",
    "gradient_reduce": "gradient reduction",
    "stage_wait": "other stages",
    "data": "data and other",
    "other": "data and other",
}


def compute_causes(stage: StagePrediction, accumulation: int) -> tuple[tuple[str, float], ...]:
    """Seconds of a step's compute by cause, the largest first."""
    causes: dict[str, float] = {}
    for one in (stage.time.forward, stage.time.backward):
        for cause, seconds in one.causes:
            causes[cause] = causes.get(cause, 0.0) + accumulation * seconds
    return tuple(sorted(causes.items(), key=lambda item: -item[1]))
