"""Share of the training state that has copies, which a run compares (runtime.check_replicas_every).

Data-parallel peers hold the same weights, and without ZeRO the same moments; TP partners the same norms and
routers, under ZeRO their masters and moments too; peers of an expert hold its weights. A bf16 weight is also
compared with its fp32 master, its own rank's part under ZeRO 1 and 2. The rest has one copy: a bit that flips
there between two steps is taken for the truth.
"""

from dataclasses import dataclass

from planner.memory.optimizer_state import bytes_per_parameter, groups_of
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan


@dataclass(frozen=True, kw_only=True)
class ReplicatedState:
    """Bytes over all ranks: of weights, masters and moments, and of those that are compared."""

    total: int
    compared: int

    @property
    def share(self) -> float:
        return self.compared / self.total


def replicated_state(plan: Plan) -> ReplicatedState:
    """Without the padding of partitions, and without buffers."""
    zero, training = zero_stage(plan), plan.strategy.training
    each = bytes_per_parameter(training.precision, zero, moments=training.optimizer.moments)
    total = compared = 0
    for stage in plan.stages:
        data, tp = stage.dense.size("data"), stage.dense.size("tp")
        for tp_rank in range(tp):
            for group in groups_of(plan, stage, tp_rank):
                if group.is_expert and tp_rank:
                    continue  # the experts of all columns are counted in the first
                holders = data * tp if group.is_expert else data
                for tensor in group.tensors:
                    is_shared = tp > 1 and not tensor.is_expert and not tensor.is_split_over_tp
                    weights = tensor.num_elements * each.weight * holders
                    kept = tensor.num_elements * (each.master + each.moments)
                    kept *= holders if zero == 0 else holders // group.ranks
                    total += weights + kept
                    if group.ranks > 1 or is_shared:
                        compared += weights
                    elif each.master:
                        compared += weights  # with the masters, on the one rank that has both
                    if is_shared or (zero == 0 and group.ranks > 1):
                        compared += kept
    return ReplicatedState(total=total, compared=compared)
