"""What all ways to run a layout share: which of its stages are alike, and where they meet."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from planner.hardware.catalog import Device
from planner.plan.plan import Plan
from planner.prediction.predict import is_on_one_host
from planner.timing.collective_time import Network, Spread, network_of, spread_of
from planner.topology.placement import Stage
from planner.topology.stage_boundary import chunks_of


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Stages that are alike: what they hold (shape), and how their groups lie (key)."""

    stage: Stage
    shape: tuple[object, ...]
    key: tuple[object, ...]
    data: Spread
    edp: Spread


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A plan without what differs between its ways.

    kinds: its different stages. order: which of them each stage is. fullest: of stages that are alike, as
    their neighbours are, the first, which has most micro-batches in flight. meetings: the kinds on both
    sides of a boundary, whether one host holds both stages, and how many boundaries are so.
    """

    plan: Plan
    network: Network
    kinds: tuple[Kind, ...]
    order: tuple[int, ...]
    fullest: tuple[int, ...]
    meetings: dict[tuple[int, int, bool], int]

    def num_chunks(self, accumulation: int) -> int:
        """Into how many the last stage cuts its sequences of a micro-step."""
        stages = self.plan.stages
        if len(stages) == 1:
            return 1
        return len(chunks_of(stages[-1], stages[-2], self.plan.batch.global_batch // accumulation))


def layout_of(plan: Plan, device: Device) -> Layout:
    """The layout of a plan, whatever its ZeRO stage, micro_batch and recompute."""
    network = network_of(plan, device)
    kinds: list[Kind] = []
    order: list[int] = []
    seen: dict[tuple[object, ...], int] = {}
    model, size = plan.strategy.model, network.host_size
    for stage in plan.stages:
        dense = sum(layer < model.first_dense_layers for layer in stage.layers)
        ep = None if stage.expert is None else spread_of(stage.expert, "ep", size)
        data = spread_of(stage.dense, "data", size)
        edp = data if stage.expert is None else spread_of(stage.expert, "edp", size)
        tp = spread_of(stage.dense, "tp", size)
        ends = (stage.contents.embedding, stage.contents.norm, stage.contents.output)
        shape = (dense, len(stage.layers), *ends, tp.size, 1 if ep is None else ep.size)
        key = (*shape, tp, ep, size)
        full = (*key, data, edp)
        if full not in seen:
            seen[full] = len(kinds)
            kinds.append(Kind(stage=stage, shape=shape, key=key, data=data, edp=edp))
        order.append(seen[full])
    around = list(zip([None, *order], order, [*order[1:], None], strict=False))
    together = (is_on_one_host(*pair, network) for pair in pairwise(plan.stages))
    return Layout(
        plan=plan,
        network=network,
        kinds=tuple(kinds),
        order=tuple(order),
        fullest=tuple(i for i, those in enumerate(around) if those not in around[:i]),
        meetings=Counter((*pair, one) for pair, one in zip(pairwise(order), together, strict=True)),
    )
