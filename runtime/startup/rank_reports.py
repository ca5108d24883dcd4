"""Rank reports: what each rank found before the start, and the Problems that follow from all of them.

Ranks that found the same are named together, as ranges: 68 ranks do not need 68 lines to say one thing.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version

import torch

from planner import Plan, Problem
from planner.plan.code_fingerprint import code_fingerprint
from planner.plan.mismatch import VARIABLE
from planner.plan.operator_env import format_ranks
from planner.run_holder import host_and_boot
from runtime.process.identity import Identity
from runtime.process.launcher_watch import hosts_given

COMPARED_PACKAGES = ("torch", "deepspeed", "transformers")
MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """What a rank found before the start.

    machine: equal on all ranks of one host, different elsewhere. holds: by name, what must be equal on all
    ranks: plan, stage tables, code, versions. hosts: those that DeepSpeed was given, with their numbers of
    ranks; None under other launchers. device: which GPU; "" on a CPU.
    """

    rank: int
    local_rank: int = 0
    host: str = ""
    machine: str = ""
    holds: dict[str, str]
    hosts: dict[str, int] | None = None
    device: str = ""
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> "RankReport":
        """Also from a rank with older or newer code: unknown keys are left out."""
        content = json.loads(text)
        known = {field.name: content[field.name] for field in fields(RankReport) if field.name in content}
        problems = tuple(Problem(**problem) for problem in content.get("problems", ()))
        return RankReport(**{"holds": {}, **known, "problems": problems})


def make_report(plan: Plan | None, identity: Identity, problems: Iterable[Problem]) -> RankReport:
    """This rank's own report."""
    holds = {"code": code_fingerprint(), "python": platform.python_version()}
    holds |= {name: version(name) for name in COMPARED_PACKAGES}
    if plan is not None:
        holds = {"plan": plan.fingerprint, "stage tables": hash_stage_tables(plan)} | holds
    # DeepSpeed's number of the host tells apart what shares a machine and a name.
    machine = f"{host_and_boot()} {os.environ.get('CROSS_RANK', '')}"
    device = ""
    if plan is not None and not plan.strategy.cluster.gpu.is_cpu and not problems:
        device = str(torch.cuda.get_device_properties(identity.local_rank).uuid)
    return RankReport(
        rank=identity.rank,
        local_rank=identity.local_rank,
        host=identity.host,
        machine=machine,
        holds=holds,
        hosts=hosts_given(),
        device=device,
        problems=tuple(problems),
    )


def hash_stage_tables(plan: Plan) -> str:
    """Which stage and groups each rank is in, as a fingerprint: 16 hexadecimal digits."""
    tables = [
        (stage.name, stage.layers, grid.first_rank, grid.axes, grid.sizes)
        for stage in plan.stages
        for grid in (stage.dense, stage.expert)
        if grid is not None
    ]
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()[:16]


def disagrees(own: RankReport, peer: RankReport) -> bool:
    """Whether a peer's report alone shows that the run cannot start."""
    return bool(peer.problems) or peer.holds != own.holds


def find_problems(
    plan: Plan, reports: Mapping[int, RankReport], environ: Mapping[str, str] = os.environ
) -> tuple[Problem, ...]:
    """Everything that keeps these ranks from training the plan together.

    Args:
        reports: by rank, rank 0's among them; ranks that did not report are left out.
        environ: tells whether the launch was generated, so that hosts and local ranks must be the plan's.
    """
    found = [*_own_problems(plan, reports), *_differences(reports), *_split_groups(plan, reports)]
    found += _shared_devices(reports)
    if environ.get(VARIABLE):
        found += [*_other_hosts(plan, reports), *_other_local_ranks(plan, reports)]
    return tuple(found)


def missing_ranks(plan: Plan, reports: Mapping[int, RankReport], timeout_s: float) -> Iterator[Problem]:
    """The ranks that did not report."""
    ranks = [rank for rank in range(plan.world_size) if rank not in reports]
    if ranks:
        hosts = _names(dict.fromkeys(plan.host_of(rank).name for rank in ranks))
        yield Problem(
            code="SW611",
            found=f"{_ranks(ranks)} (on {hosts} by the plan) did not report within {timeout_s:.0f} s",
            expected=f"all {plan.world_size} ranks of the plan",
            fix="check the logs of those ranks; launch.timeout sets how long rank 0 waits",
        )


def _own_problems(plan: Plan, reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    """Problems that ranks found themselves, each once, with the ranks that have it unless all do."""
    ranks_by_problem: dict[Problem, list[RankReport]] = {}
    for peer in reports.values():
        for problem in dict.fromkeys(peer.problems):
            ranks_by_problem.setdefault(problem, []).append(peer)
    for problem, peers in ranks_by_problem.items():
        if len(peers) < plan.world_size:
            problem = replace(problem, found=f"{problem.found} ({_who(peers)})")
        yield problem


def _differences(reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    """A rank with another plan, other packages or other code would train something else."""
    own = reports[0]
    names = dict.fromkeys(name for peer in reports.values() for name in peer.holds)
    for name in names:
        peers_by_value: dict[str, list[RankReport]] = {}
        for peer in reports.values():
            if peer.holds.get(name) != own.holds.get(name) and not (name == "plan" and peer.problems):
                peers_by_value.setdefault(peer.holds.get(name, "none"), []).append(peer)
        if name == "stage tables" and any(
            peer.holds.get("plan") != own.holds.get("plan") for peer in reports.values()
        ):
            continue  # another plan has other tables
        for value, peers in peers_by_value.items():
            have = "has" if len(peers) == 1 else "have"
            yield Problem(
                code="SW612",
                found=f"{_who(peers)} {have} {name} {value}",
                expected=f"{name} {own.holds.get(name, 'none')}, as on rank 0 on {own.host}",
                fix=_FIXES.get(name, f"use the same {name} on all hosts"),
            )


_FIXES = {
    "plan": "use the same strategy file and overrides on all hosts",
    "stage tables": "use the same code on all hosts",
    "code": "use the same state of the project on all hosts (git status, git rev-parse HEAD)",
}


def _split_groups(plan: Plan, reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    """TP partners exchange every layer's activations, so the plan keeps them on one host."""
    split = [
        group
        for stage in plan.stages
        for group in stage.dense.groups("tp")
        if len({reports[rank].machine for rank in group if rank in reports}) > 1
    ]
    if split:
        hosts = _names(dict.fromkeys(reports[rank].host for rank in split[0] if rank in reports))
        more = f", and {len(split) - 1} more TP groups are split" if len(split) > 1 else ""
        yield Problem(
            code="SW613",
            path="parallel.tp",
            found=f"the TP group of {_ranks(split[0])} spans {hosts}{more}",
            expected="every TP group on one host",
            fix="start ranks in blocks that tp divides on every host, as `python -m launch generate` does",
        )


def _shared_devices(reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    by_device: dict[str, list[RankReport]] = {}
    for peer in reports.values():
        if peer.device:
            by_device.setdefault(peer.device, []).append(peer)
    for device, peers in by_device.items():
        if len(peers) > 1:
            yield Problem(
                code="SW614",
                found=f"{_who(peers)} share one GPU, {device}",
                expected="one GPU per rank",
                fix="check that the hostfile has no host under two names, and what sets LOCAL_RANK",
            )


def _other_hosts(plan: Plan, reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    """DeepSpeed was given other hosts than the launch was generated for, or the same in another order."""
    planned = [(host.name, len(host.ranks)) for host in plan.hosts]
    peers_by_hosts: dict[tuple[tuple[str, int], ...], list[RankReport]] = {}
    for peer in reports.values():
        if peer.hosts is not None and not _fit(peer.hosts, planned, plan):
            peers_by_hosts.setdefault(tuple(peer.hosts.items()), []).append(peer)
    for hosts, peers in peers_by_hosts.items():
        yield Problem(
            code="SW615",
            found=f"{_who(peers)}: DeepSpeed was given the hosts {_slots(hosts)}",
            expected=f"{_slots(planned)}, as in the generated hostfile",
            fix="start it with the unchanged generated hostfile, or run `python -m launch generate` "
            "for these hosts",
        )


def _fit(given: Mapping[str, int], planned: list[tuple[str, int]], plan: Plan) -> bool:
    """Whether ranks are placed as in the plan; the last host may have more, whose processes just end."""
    hosts = list(given.items())[: len(planned)]
    if len(hosts) < len(planned):
        return False
    if not plan.strategy.cluster.hosts.are_made_up and [name for name, _ in hosts] != [
        name for name, _ in planned
    ]:
        return False
    sizes, wanted = [size for _, size in hosts], [size for _, size in planned]
    return sizes[:-1] == wanted[:-1] and sizes[-1] >= wanted[-1]


def _other_local_ranks(plan: Plan, reports: Mapping[int, RankReport]) -> Iterator[Problem]:
    wrong = [
        peer for peer in reports.values() if peer.local_rank != peer.rank - plan.host_of(peer.rank).ranks[0]
    ]
    if wrong:
        first = wrong[0]
        planned = first.rank - plan.host_of(first.rank).ranks[0]
        which = "" if len(wrong) == 1 else f" (rank {first.rank})"
        yield Problem(
            code="SW616",
            found=f"{_who(wrong)}: LOCAL_RANK is {first.local_rank}{which}",
            expected=f"{planned}{which}, as in plan.json",
            fix="start as many ranks on each host as the generated hostfile lists, in its order",
        )


def _who(peers: Iterable[RankReport]) -> str:
    peers = list(peers)
    return f"{_ranks([peer.rank for peer in peers])} on {_names(dict.fromkeys(peer.host for peer in peers))}"


def _ranks(ranks: Iterable[int]) -> str:
    ranks = tuple(ranks)
    return f"rank{'s' if len(ranks) > 1 else ''} {format_ranks(ranks)}"


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _slots(hosts: Iterable[tuple[str, int]]) -> str:
    return _names(f"{name} with {size}" for name, size in hosts)
