"""Placement of a model on ranks: the stages of a plan, their layers and their rank grids.

Degrees of a strategy and the axes they become (see planner.topology.grid for a picture):

    dp    replicas of the model                       in both placements part of data and edp
    pp    pipeline stages                             consecutive blocks of ranks, of consecutive layers
    tp    tensor parallelism of dense weights         axis tp of a stage's dense grid
    ep    expert parallelism                          axis ep of a stage's expert grid
    data  = ranks of a stage / tp                     data-parallel axis of dense weights
    edp   = ranks of a stage / ep                     data-parallel axis of experts

`colocated`: each stage has dp × max(ep, tp) ranks that hold dense weights and experts. `staged`: embedding
(dp × tp ranks), experts (pp stages of dp × ep ranks, with tp = 1) and aggregation (dp × tp ranks) are apart.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from planner.strategy.parallel import Parallel
from planner.topology.grid import Grid


@dataclass(frozen=True, kw_only=True)
class StageContents:
    """The modules of a pipeline stage: layers by their global number, embedding, final norm, output.

    The final norm is with the last layer, so that aggregation ranks receive slices of normalized vectors.
    """

    layers: tuple[int, ...] = ()
    embedding: bool = False
    norm: bool = False
    output: bool = False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Ranks that hold the same modules, with two grids over the same block of ranks.

    `dense` has the axes data × tp; the size of `data` is the stage's data-parallel size. `expert` has the
    axes edp × ep, and is None for a stage without layers.
    """

    name: str
    contents: StageContents
    dense: Grid
    expert: Grid | None

    @property
    def layers(self) -> tuple[int, ...]:
        return self.contents.layers

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.dense.ranks

    def num_layers(self, first_dense_layers: int) -> tuple[int, int]:
        """Dense layers and MoE layers; the model's first layers are dense."""
        dense = sum(layer < first_dense_layers for layer in self.layers)
        return dense, len(self.layers) - dense

    @cached_property
    def data_parallel_size(self) -> int:
        return self.dense.size("data")


def world_size(parallel: Parallel) -> int:
    """The number of ranks of a plan with these degrees."""
    if parallel.placement == "colocated":
        return parallel.pp * parallel.dp * max(parallel.ep, parallel.tp)
    return parallel.dp * (parallel.tp + parallel.pp * parallel.ep + parallel.tp)


def largest_data_parallel_size(parallel: Parallel) -> int:
    """The data-parallel size of the widest stage; micro_batch counts sequences of its ranks."""
    if parallel.placement == "colocated":
        return parallel.dp * max(parallel.ep, parallel.tp) // parallel.tp
    return parallel.dp * parallel.ep


def place(parallel: Parallel, num_layers: int) -> tuple[Stage, ...]:
    """The stages of a legal set of degrees, in the order in which activations flow."""
    return (colocated if parallel.placement == "colocated" else staged)(parallel, num_layers)


def colocated(parallel: Parallel, num_layers: int) -> tuple[Stage, ...]:
    """pp stages of dp × max(ep, tp) ranks; the first has the embedding, the last the output."""
    n = parallel.dp * max(parallel.ep, parallel.tp)
    stages = []
    for i, layers in enumerate(stage_layers(parallel, num_layers)):
        first, is_last = i * n, i == parallel.pp - 1
        stages.append(
            Stage(
                name="all" if parallel.pp == 1 else f"layers-{i}",
                contents=StageContents(layers=layers, embedding=i == 0, norm=is_last, output=is_last),
                dense=Grid(axes=("data", "tp"), sizes=(n // parallel.tp, parallel.tp), first_rank=first),
                expert=Grid(axes=("edp", "ep"), sizes=(n // parallel.ep, parallel.ep), first_rank=first),
            )
        )
    return tuple(stages)


def staged(parallel: Parallel, num_layers: int) -> tuple[Stage, ...]:
    """dp × tp embedding ranks, pp stages of dp × ep expert ranks, dp × tp aggregation ranks.

    Rank order `document` numbers them in that order, `compact` the expert stages first, so that ep = 64 fills
    eight hosts of eight.
    """
    dp, tp, ep, pp = parallel.dp, parallel.tp, parallel.ep, parallel.pp
    num_expert_ranks = pp * dp * ep
    first_expert = 0 if parallel.rank_order == "compact" else dp * tp
    first_embedding = num_expert_ranks if parallel.rank_order == "compact" else 0
    first_aggregation = num_expert_ranks + dp * tp
    experts = [
        Stage(
            name="experts" if pp == 1 else f"experts-{i}",
            contents=StageContents(layers=layers, norm=i == pp - 1),
            dense=Grid(axes=("data", "tp"), sizes=(dp * ep, 1), first_rank=first_expert + i * dp * ep),
            expert=Grid(axes=("edp", "ep"), sizes=(dp, ep), first_rank=first_expert + i * dp * ep),
        )
        for i, layers in enumerate(stage_layers(parallel, num_layers))
    ]
    return (
        Stage(
            name="embedding",
            contents=StageContents(embedding=True),
            dense=Grid(axes=("data", "tp"), sizes=(dp, tp), first_rank=first_embedding),
            expert=None,
        ),
        *experts,
        Stage(
            name="aggregation",
            contents=StageContents(output=True),
            dense=Grid(axes=("data", "tp"), sizes=(dp, tp), first_rank=first_aggregation),
            expert=None,
        ),
    )


def stage_layers(parallel: Parallel, num_layers: int) -> tuple[tuple[int, ...], ...]:
    """The layers of each of the pp stages that have layers, by their global number."""
    cut = parallel.layers_per_stage
    if cut is None:
        cut = even_cut(num_layers, parallel.pp)
    assert len(cut) == parallel.pp, (cut, parallel.pp)
    assert sum(cut) == num_layers, (cut, num_layers)
    return tuple(tuple(range(a, b)) for a, b in pairwise(accumulate(cut, initial=0)))


def even_cut(num_layers: int, pp: int) -> tuple[int, ...]:
    """The number of layers of each of pp stages, as even as possible, the longer stages first."""
    assert 1 <= pp <= num_layers, (num_layers, pp)
    each, rest = divmod(num_layers, pp)
    return (each + 1,) * rest + (each,) * (pp - rest)
