"""Cut of the layers with a light last stage, which has the output besides.

The output of a large vocabulary is as much work as several layers. In the staged placement it has its own
ranks, so that only colocated pipelines are cut in this way.
"""

from planner.plan.plan import Plan
from planner.search.search_space import PlanWith
from planner.strategy.execution import Reduce
from planner.strategy.recompute import Recompute
from planner.timing.time_model import TimeModel
from planner.topology.placement import even_cut


def lighten_last_stage(
    plan_with: PlanWith, times: TimeModel, written: tuple[int, ...] | None
) -> PlanWith | None:
    """An evenly cut colocated pipeline with a light last stage; None for other plans, and where that is the
    same cut or the one that the strategy has written, which is searched anyway."""
    plan = plan_with(Recompute(), None)
    parallel, layers = plan.strategy.parallel, plan.strategy.model.num_hidden_layers
    if parallel.placement != "colocated" or parallel.pp == 1 or parallel.layers_per_stage is not None:
        return None
    cut = light_last_cut(layers, parallel.pp, _output_in_layers(plan, times))
    if cut in (even_cut(layers, parallel.pp), written):
        return None
    changed = parallel.model_copy(update={"layers_per_stage": cut})

    def plan_with_cut(recompute: Recompute, reduce: Reduce | None) -> Plan:
        strategy = plan_with(recompute, reduce).strategy
        return Plan(strategy=strategy.model_copy(update={"parallel": changed}))

    return plan_with_cut


def _output_in_layers(plan: Plan, times: TimeModel) -> float:
    """Time of the output over that of a layer, as the stage before the last has them."""
    before, last = (stage.micro_batch.total_s for stage in times.step(plan).stages[-2:])
    layers_before, layers_last = (len(stage.layers) for stage in plan.stages[-2:])
    return max(0.0, last / (before / layers_before) - layers_last)


def light_last_cut(num_layers: int, pp: int, output: float) -> tuple[int, ...]:
    """The cut whose slowest stage is fastest, where the last one has so many layers' worth of output besides;
    of equal ones that with the shortest last stage, which leaves memory for the output."""
    lasts = range(1, num_layers // pp + 1)
    slowest = {last: max(even_cut(num_layers - last, pp - 1)[0], last + output) for last in lasts}
    last = min(lasts, key=lambda last: (slowest[last], last))
    return (*even_cut(num_layers - last, pp - 1), last)
