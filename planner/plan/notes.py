"""Notes below a plan's tables: one line for each surprising consequence of the strategy."""

from collections.abc import Iterator

from planner.hardware.catalog import device_of
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan
from planner.rules.not_implemented import find_unimplemented
from planner.strategy.schema import Strategy


def list_notes(plan: Plan) -> tuple[str, ...]:
    """Lines for people, in the order of importance."""
    return (
        *_not_run_yet(plan),
        *_zero_1_becomes_2(plan),
        *_fp8_emulated(plan),
        *_rank_order_cost(plan),
        *_warmup_only(plan),
        *_host_order(plan),
        *_joined_conversations(plan),
        *_unknown_documents(plan),
        *_no_copies(plan),
        *_no_other_host(plan),
        *([forced] if (forced := forced_routing_warning(plan.strategy)) else []),
    )


def forced_routing_warning(strategy: Strategy) -> str | None:
    """One line where runtime.force_routing is set; None where the routers choose."""
    forced = strategy.runtime.force_routing
    if forced is None:
        return None
    return (
        f"SW306 runtime.force_routing {forced}: experts are chosen by this rule and not by the routers, for "
        "benchmarks and rehearsals; the model that this trains is of no other use"
    )


def _not_run_yet(plan: Plan) -> Iterator[str]:
    missing = [str(problem.path) for problem in find_unimplemented(plan.strategy)]
    if missing:
        yield f"can be planned, but training it is not implemented yet: {', '.join(missing)}"


def _zero_1_becomes_2(plan: Plan) -> Iterator[str]:
    given, asked = zero_stage(plan), plan.strategy.parallel.zero_stage
    if given != asked:
        yield (
            f"ZeRO {asked} with accumulation {plan.batch.accumulation} in {plan.strategy.training.precision} "
            f"is configured in DeepSpeed as ZeRO {given}: same optimizer partitions, same checkpoint, "
            "gradients summed in fp32"
        )


def _fp8_emulated(plan: Plan) -> Iterator[str]:
    if plan.strategy.training.precision != "fp8":
        return
    device = device_of(plan.strategy.cluster.gpu)
    if "fp8" not in device.peak:
        yield f"{device.name} has no FP8 units: FP8 is emulated by bf16 products of the same quantized values"


def _hosts_spanned(plan: Plan, ranks: tuple[int, ...]) -> int:
    return sum(1 for host in plan.hosts if host.ranks[0] <= ranks[-1] and ranks[0] <= host.ranks[-1])


def _rank_order_cost(plan: Plan) -> Iterator[str]:
    """Whether another rank order would let EP groups span fewer hosts."""
    parallel = plan.strategy.parallel
    if parallel.placement != "staged" or parallel.rank_order == "compact":
        return
    largest = max(len(host.ranks) for host in plan.hosts)
    # In compact order the EP groups are the blocks of ep from rank 0 on, over hosts filled in order.
    bounds = [(host.ranks[0], host.ranks[-1]) for host in plan.hosts]
    groups = range(0, parallel.pp * parallel.dp * parallel.ep, parallel.ep)
    compact = max(sum(1 for a, b in bounds if a < g + parallel.ep and g <= b) for g in groups)
    spans = [
        _hosts_spanned(plan, group)
        for stage in plan.stages
        if stage.expert is not None
        for group in stage.expert.groups("ep")
    ]
    if compact < max(spans) and largest > 1:
        yield f"EP spans {max(spans)} hosts; {compact} with parallel.rank_order: compact"


def _warmup_only(plan: Plan) -> Iterator[str]:
    training = plan.strategy.training
    horizon = training.schedule_steps or training.steps
    if training.warmup_steps >= horizon:
        yield (
            f"the learning rate is still warming up when the run ends "
            f"(training.warmup_steps {training.warmup_steps}, {horizon} steps)"
        )


def _host_order(plan: Plan) -> Iterator[str]:
    given = plan.strategy.cluster.hosts.names
    used = [host.name for host in plan.hosts]
    if used != [name for name in given if name in set(used)]:
        yield f"hosts with fewer slots come last: {', '.join(used[-3:])}"


def _joined_conversations(plan: Plan) -> Iterator[str]:
    data = plan.strategy.data
    if data.format != "text" and data.packing == "stream":
        yield (
            f"data.format {data.format} with data.packing stream: a conversation attends to those before it "
            "and is cut where a sequence ends; data.packing: documents keeps it together"
        )


def _unknown_documents(plan: Plan) -> Iterator[str]:
    if plan.strategy.data.packing == "documents":
        yield (
            "data.packing documents: attention is counted as for one document a sequence, an upper bound of "
            "FLOPs and time"
        )


def _no_copies(plan: Plan) -> Iterator[str]:
    """Where the check was asked for; by default it is on, and costs nothing where there is nothing to do."""
    runtime = plan.strategy.runtime
    is_alone = all(len(stage.ranks) == 1 for stage in plan.stages)
    if "check_replicas_every" not in runtime.model_fields_set or not is_alone:
        return
    left = "nothing is compared"
    if plan.strategy.training.precision != "fp32":
        left = "bf16 weights are compared with their own masters only"
    yield (
        f"SW322 runtime.check_replicas_every {runtime.check_replicas_every}: no rank holds a copy of what "
        f"another holds, so {left}; runtime.replay_every checks what is computed"
    )


def _no_other_host(plan: Plan) -> Iterator[str]:
    if plan.strategy.runtime.on_corruption == "replace" and plan.strategy.cluster.hosts.count == 1:
        yield (
            "SW323 runtime.on_corruption replace with one host: no other can take its place, and silent "
            "corruption ends the run"
        )
