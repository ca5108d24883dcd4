"""Figures that only a search of all legal plans answers: is this one optimal."""

from collections.abc import Iterator, Sequence

from planner.audit.verdicts import AuditContext, Derivation
from planner.problems import StrategyError
from planner.search.search import SearchRow, search
from planner.units import format_number, plural


def place_by_throughput(context: AuditContext) -> Iterator[Derivation]:
    """The plan's place among all legal plans that fit the cluster and its memory, by predicted tokens/s.

    1 is optimal. Beside it the place among those that need no more GPUs.
    """
    try:
        found = search(context.strategy, context.prediction.device)
    except StrategyError as error:
        yield Derivation(value=None, arithmetic=f"no search: {error.problems[0].found}")
        return
    own = context.prediction.tokens_per_s
    faster = [row for row in found.rows if row.tokens_per_s > own * (1 + 1e-9)]
    yield _place(context, "on the cluster", faster, f"{len(found.rows):,} legal plans that fit")
    gpus = context.plan.world_size
    few = [row for row in found.rows if row.gpus <= gpus]
    faster = [row for row in faster if row.gpus <= gpus]
    what = f"{len(few):,} of them on {plural(gpus, 'GPU')} or fewer"
    yield _place(context, "on no more GPUs", faster, what, decides=False)


def _place(
    context: AuditContext, of: str, faster: Sequence[SearchRow], among: str, *, decides: bool = True
) -> Derivation:
    text = f"{len(faster):,} of {among} are faster"
    if faster:  # the fastest first, as a search has them
        best, own = faster[0], context.prediction.tokens_per_s
        text += (
            f"; the fastest, {best.name} on {plural(best.gpus, 'GPU')} with micro_batch "
            f"{best.strategy.training.micro_batch}, is predicted at {best.tokens_per_s / own:.2f} times the "
            f"{format_number(own)} tokens/s of this one"
        )
    return Derivation(of=of, value=1 + len(faster), arithmetic=text, decides=decides)
