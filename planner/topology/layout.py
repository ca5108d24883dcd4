"""Layout: the stages of a set of degrees on hosts of one size, with stages that are alike grouped.

Two stages are alike if their ranks hold as many layers of each kind and their groups are placed alike over
hosts: then they cost the same time. A model of many layers has few classes, which is what keeps a prediction
fast, and a search over tens of thousands of plans possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from planner.strategy.parallel import Parallel
from planner.strategy.schema import ModelShape
from planner.topology.group_placement import GroupPlacement, placement_of
from planner.topology.placement import Stage, place


@dataclass(frozen=True, kw_only=True, eq=False)
class StageClass:
    """Stages that are alike, compared by identity; `stage` is the first that was seen.

    Numbers for caches: stages of the same `shape` hold as much, of the same `work` also compute and
    communicate alike within a micro-batch, of the same `sharding` hold as much of the optimizer's state.
    """

    stage: Stage
    num_dense: int
    num_moe: int
    tp: GroupPlacement
    ep: GroupPlacement
    data: GroupPlacement
    edp: GroupPlacement
    shape: int
    work: int
    sharding: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundaryClass:
    """Boundaries that are alike: the classes of the stages before and after, and whether one host holds
    both. widths: a number for all that the time of a transfer depends on."""

    before: StageClass
    after: StageClass
    is_on_one_host: bool
    widths: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Stages on hosts of `host_size` ranks.

    order, boundaries: the class of each stage, and of each boundary behind a stage. fullest: of stages that
    are alike, and whose neighbours are, the place of the first, which keeps most micro-batches in flight,
    with the widths of the three, which size its transfer buffers.
    """

    stages: tuple[Stage, ...]
    host_size: int
    order: tuple[StageClass, ...]
    boundaries: tuple[BoundaryClass, ...]
    fullest: tuple[tuple[int, int], ...]


def layout_of(parallel: Parallel, model: ModelShape, host_size: int) -> Layout:
    """The layout of legal degrees and a cut of the layers, whatever their ZeRO stage."""
    p = parallel
    degrees = (p.placement, p.ep, p.tp, p.pp, p.dp, p.rank_order)
    return _layout(degrees, p.layers_per_stage, model.num_hidden_layers, model.first_dense_layers, host_size)


@lru_cache(maxsize=8192)
def _layout(
    degrees: tuple[str, int, int, int, int, str],
    cut: tuple[int, ...] | None,
    num_layers: int,
    first_dense_layers: int,
    host_size: int,
) -> Layout:
    placement, ep, tp, pp, dp, rank_order = degrees
    parallel = Parallel.model_construct(
        placement=placement,
        ep=ep,
        tp=tp,
        pp=pp,
        dp=dp,
        layers_per_stage=cut,
        rank_order=rank_order,
        zero_stage=1,
    )
    stages = place(parallel, num_layers)
    order = tuple(_class_of(stage, first_dense_layers, host_size) for stage in stages)
    around = list(zip([None, *order], order, [*order[1:], None], strict=False))
    seen: set[tuple[StageClass | None, ...]] = set()
    fullest = []
    for i, alike in enumerate(around):
        if alike not in seen:
            seen.add(alike)
            widths = tuple(one and one.stage.dense.sizes for one in alike)
            fullest.append((i, _number(widths)))
    return Layout(
        stages=stages,
        host_size=host_size,
        order=order,
        boundaries=tuple(
            _boundary(*classes, _is_on_one_host(pair, host_size))
            for classes, pair in zip(pairwise(order), pairwise(stages), strict=True)
        ),
        fullest=tuple(fullest),
    )


def _class_of(stage: Stage, first_dense_layers: int, host_size: int) -> StageClass:
    dense, moe = stage.num_layers(first_dense_layers)
    counts = (dense, moe, stage.contents.embedding, stage.contents.norm, stage.contents.output)
    sizes = (stage.dense.sizes, None if stage.expert is None else stage.expert.sizes)
    # The axes' names are the same on every grid, so sizes and the first rank's place on its host decide.
    key = (counts, sizes, stage.dense.first_rank % host_size, host_size)
    if key not in _classes:
        placements = tuple(placement_of(stage, axis, host_size) for axis in ("tp", "ep", "data", "edp"))
        same = (counts, stage.expert is None, placements, host_size)
        if same not in _same:
            tp, ep, data, edp = placements
            _same[same] = StageClass(
                stage=stage,
                num_dense=dense,
                num_moe=moe,
                tp=tp,
                ep=ep,
                data=data,
                edp=edp,
                shape=_number(counts, tp.size, ep.size),
                work=_number(counts, tp, ep, host_size),
                sharding=_number(counts, tp.size, ep.size, data.size, edp.size),
            )
        _classes[key] = _same[same]
    return _classes[key]


def _number(*key: object) -> int:
    """The same number for the same key."""
    return _numbers.setdefault(key, len(_numbers))


_numbers: dict[tuple[object, ...], int] = {}
# Rank arithmetic of stages, whose number is that of the layouts that one process looks at.
_classes: dict[tuple[object, ...], StageClass] = {}
_same: dict[tuple[object, ...], StageClass] = {}


@lru_cache(maxsize=65536)
def _boundary(before: StageClass, after: StageClass, is_on_one_host: bool) -> BoundaryClass:
    ends = ((one.stage.dense.sizes, not one.stage.layers) for one in (before, after))
    widths = _number(*ends, is_on_one_host)
    return BoundaryClass(before=before, after=after, is_on_one_host=is_on_one_host, widths=widths)


def _is_on_one_host(stages: Sequence[Stage], host_size: int) -> bool:
    ends = [rank for stage in stages for rank in (stage.dense.first_rank, stage.dense.last_rank)]
    return min(ends) // host_size == max(ends) // host_size
