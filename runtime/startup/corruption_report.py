"""Silent corruption, as it is reported: what differs, on which ranks and hosts, and what to do."""

from typing import Any

from planner import Plan, Problem
from planner.plan.operator_env import format_ranks
from planner.units import plural
from runtime.training.corruption import Corrupted, Finding

MAX_PRINTED = 3  # findings; failed.json has all
_EXPECTED = {
    "SW902": "the same bits in every copy",
    "SW908": "the same bits from the same weights and data",
}


def corruption_problem(error: Corrupted, plan: Plan, checkpoint: int | None) -> Problem:
    """`checkpoint`: the step of the newest one; None: there is none."""
    texts = [_text(finding, plan) for finding in error.findings[:MAX_PRINTED]]
    more = len(error.findings) - MAX_PRINTED
    texts += [f"and {plural(more, 'more finding')} (failed.json)"] if more > 0 else []
    kept = "" if error.folder is None else f"; the tensors are in {error.folder}"
    how = "copies differ" if error.code == "SW902" else "a micro-batch that was computed twice differs"
    return Problem(
        code=error.code,
        path=None,
        found=f"step {error.step}: {how}: {'; '.join(texts)}{kept}",
        expected=_EXPECTED[error.code],
        fix=_fix(_hosts(error.ranks, plan), plan, checkpoint),
    )


def corruption_json(error: Corrupted, problem: Problem, plan: Plan) -> dict[str, Any]:
    """The Problem as in failed.json, with what programs want: everything that was found."""
    return {
        **problem.as_json(),
        "step": error.step,
        "ranks": list(error.ranks),
        "hosts": list(_hosts(error.ranks, plan)),
        "findings": [
            {"what": finding.what, "ranks": list(finding.ranks), "others": list(finding.others)}
            for finding in error.findings
        ],
        "tensors": None if error.folder is None else str(error.folder),
    }


def _text(finding: Finding, plan: Plan) -> str:
    if finding.others:
        others = f"what {_name(finding.others)} hold{'' if len(finding.others) > 1 else 's'}"
        return f"{finding.what} of {_placed(finding.ranks, plan)} is not {others}"
    if len(finding.ranks) > 1:
        return f"{finding.what} of {_placed(finding.ranks, plan)}, of which none is known to be right"
    return f"{finding.what} of {_placed(finding.ranks, plan)}"


def _placed(ranks: tuple[int, ...], plan: Plan) -> str:
    return f"{_name(ranks)} on {', '.join(_hosts(ranks, plan))}"


def _name(ranks: tuple[int, ...]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {format_ranks(ranks)}"


def _hosts(ranks: tuple[int, ...], plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(plan.host_of(rank).name for rank in ranks))


def _fix(hosts: tuple[str, ...], plan: Plan, checkpoint: int | None) -> str:
    again = (
        "start it again: no checkpoint was saved before"
        if checkpoint is None
        else f"start it again: it resumes from the checkpoint of step {checkpoint}"
    )
    if plan.strategy.cluster.hosts.count == 1:
        return f"check the memory and the devices of {hosts[0]}, then {again}"
    return (
        f"take {', '.join(hosts)} out (`python -m launch cordon STRATEGY {' '.join(hosts)}`) and {again}; "
        "with runtime.on_corruption=replace `python -m launch run` does both"
    )
