"""Lines around the tables of a search: held and varied, ties, how the strategy as written compares."""

from collections.abc import Iterator, Sequence

from planner.build import build_plan
from planner.hardware.catalog import Device
from planner.prediction.predict import predict
from planner.problems import Problem
from planner.report.search_report import SearchView
from planner.search.fewest_gpus import MOST_GPUS, fewest_gpus
from planner.search.search import why_better
from planner.strategy.schema import Strategy
from planner.units import plural

_FASTER = 1.000001


def search_heading(given: Strategy, view: SearchView, *, is_trainable_only: bool) -> tuple[str, ...]:
    """What was found, held and varied, and the limit."""
    training, found = given.training, view.found
    held = ["the model"]
    if "precision" not in view.varied:
        held.append(training.precision)
    held.append(
        f"sequences of {training.seq_length:,} tokens"
        if "global_batch" in view.varied
        else f"a global batch of {training.global_batch:,} × {training.seq_length:,} tokens"
    )
    pps = ", ".join(str(pp) for pp in view.found.pps)
    varied = [f"placement, ep, tp, pp ({pps}), dp", "ZeRO stage", "micro_batch", "recompute where needed"]
    if len(given.cluster.slots) > 1 and "all_to_all" not in given.runtime.model_fields_set:
        varied.append("all_to_all between hosts")
    varied += [name for name in ("precision", "global_batch") if name in view.varied]
    lines = [
        *found.lines,
        f"{given.name}: {found.num_legal:,} legal plans for {found.num_gpus:,} GPUs, "
        f"{found.num_too_large:,} of them do not fit in memory",
        f"held: {', '.join(held)}; varied: {', '.join(varied)}",
        f"memory of a rank: at most {found.limit}",
    ]
    if is_trainable_only:
        left_out = found.num_legal - found.num_too_large - len(found.rows)
        lines.append(f"--trainable: {plural(left_out, 'plan')} that this version cannot train left out")
    return tuple(lines)


def search_notes(
    given: Strategy, problems: Sequence[Problem], view: SearchView, device: Device
) -> Iterator[str]:
    """Why the first row beats the strategy as written, ties, and what this version cannot train."""
    found = view.found
    yield from (f"not legal as written: {problem.path}: {problem.found}" for problem in problems)
    if not problems:
        base = predict(build_plan(given), device)
        num_faster = sum(row.tokens_per_s > base.tokens_per_s * _FASTER for row in found.rows)
        yield (
            f"{given.parallel.layout_name} {given.parallel.placement} as written: {base.tokens_per_s:,.0f} "
            f"tokens/s; {num_faster:,} plans are faster"
        )
        if found.rows[0].tokens_per_s > base.tokens_per_s * _FASTER:
            yield f"row 1 compared with it: {why_better(found.rows[0], base, device)}"
    yield from _tie_notes(view)
    num_trainable = sum(not view.missing[id(row)] for row in found.rows)
    if num_trainable < len(found.rows):
        keys = sorted({key for row in found.rows for key in view.missing[id(row)]})
        which = f"rows from {num_trainable + 1} on" if num_trainable else "any of the rows"
        yield f"this version cannot train {which} yet: {', '.join(keys)}"
    yield "a plan that does not fit has the fastest recompute and reduce with which it does; spares are used"


def _tie_notes(view: SearchView) -> Iterator[str]:
    if view.by == "gpus":
        return
    if view.error is None:
        yield "ties are not marked: no run on this GPU is measured yet, so the planner's error is unknown"
        return
    number = sum(bool(is_tied) for is_tied in view.ties(view.found.rows))
    yield (
        f"{plural(number, 'row')} (≈) cannot be told apart from the first: the planner's error of a step's "
        f"time is {view.error}"
    )


def why_nothing(given: Strategy, view: SearchView, *, is_trainable_only: bool) -> str:
    """For a search without rows; on how many GPUs something fits, if that is why."""
    found = view.found
    if not found.num_legal:
        return "no layout is legal on this cluster; run plan to see what is wrong with one"
    if is_trainable_only and found.num_too_large < found.num_legal:
        return "this version can train none of the plans that fit; without --trainable they are shown"
    text = f"no legal plan fits in {found.limit} a rank, even with recompute"
    plan = fewest_gpus(given)
    if plan is None:
        return f"{text}, nor on {MOST_GPUS:,} such GPUs: use a smaller model or batch, or a higher limit"
    training, parallel = plan.strategy.training, plan.strategy.parallel
    return (
        f"{text}; at least {plan.world_size:,} such GPUs are needed: {parallel.layout_name} "
        f"{parallel.placement}, ZeRO {parallel.zero_stage}, micro_batch {training.micro_batch}, recompute "
        f"{plan.strategy.runtime.recompute}"
    )
