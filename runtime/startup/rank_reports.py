"""What a rank reports before the start, and what the reports of all ranks say about the plan.

Ranks that found the same are named together, as ranges: 68 ranks do not need 68 lines to say one thing.
"""

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import torch

from planner import Plan, Problem
from planner.plan.code_fingerprint import code_fingerprint
from planner.plan.mismatch import VARIABLE
from planner.plan.operator_env import format_ranks
from runtime.process.identity import Identity
from runtime.process.launcher_watch import hosts_given

PACKAGES = ("torch", "deepspeed", "transformers")
MAX_NAMED = 4
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a rank found before the start.

    machine: the same on all ranks of one host, another elsewhere. holds: by name, of what all ranks must have
    the same: plan, stage tables, code, versions. hosts: those that DeepSpeed was given, with their numbers of
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
    def from_json(text: str | bytes) -> "Report":
        """Also of a rank whose code is older or newer: what it does not know is left out."""
        content = json.loads(text)
        known = {field.name: content[field.name] for field in fields(Report) if field.name in content}
        problems = tuple(Problem(**problem) for problem in content.get("problems", ()))
        return Report(**{"holds": {}, **known, "problems": problems})


def report(plan: Plan | None, identity: Identity, problems: Iterable[Problem]) -> Report:
    """This rank's own report."""
    holds = {"code": code_fingerprint(), "python": platform.python_version()}
    holds |= {name: version(name) for name in PACKAGES}
    if plan is not None:
        holds = {"plan": plan.fingerprint, "stage tables": stage_tables(plan)} | holds
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    # DeepSpeed's number of the host tells apart what shares a machine and a name.
    machine = f"{socket.gethostname()} {boot} {os.environ.get('CROSS_RANK', '')}"
    device = ""
    if plan is not None and not plan.strategy.cluster.gpu.is_cpu and not problems:
        device = str(torch.cuda.get_device_properties(identity.local_rank).uuid)
    return Report(
        rank=identity.rank,
        local_rank=identity.local_rank,
        host=identity.host,
        machine=machine,
        holds=holds,
        hosts=hosts_given(),
        device=device,
        problems=tuple(problems),
    )


def stage_tables(plan: Plan) -> str:
    """Which stage and groups each rank is in, as a fingerprint: 16 hexadecimal digits."""
    tables = [
        (stage.name, stage.layers, grid.first_rank, grid.axes, grid.sizes)
        for stage in plan.stages
        for grid in (stage.dense, stage.expert)
        if grid is not None
    ]
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()[:16]


def is_odd(own: Report, peer: Report) -> bool:
    """Whether a peer's report alone tells that the run cannot start."""
    return bool(peer.problems) or peer.holds != own.holds


def problems_of(
    plan: Plan, reports: Mapping[int, Report], environ: Mapping[str, str] = os.environ
) -> tuple[Problem, ...]:
    """Everything that keeps these ranks from training the plan together.

    Args:
        reports: by rank, rank 0's among them; ranks that did not report are left out.
        environ: tells whether the launch was generated, so that hosts and local ranks must be the plan's.
    """
    found = [*_told(plan, reports), *_differences(reports), *_split_groups(plan, reports)]
    found += _shared_devices(reports)
    if environ.get(VARIABLE):
        found += [*_other_hosts(plan, reports), *_other_local_ranks(plan, reports)]
    return tuple(found)


def silent(plan: Plan, reports: Mapping[int, Report], timeout_s: float) -> Iterator[Problem]:
    """The ranks that did not report."""
    ranks = [rank for rank in range(plan.world_size) if rank not in reports]
    if ranks:
        hosts = _names(dict.fromkeys(plan.host_of(rank).name for rank in ranks))
        yield Problem(
            path=None,
            line=None,
            found=f"{_ranks(ranks)} (on {hosts} by the plan) did not report within {timeout_s:.0f} s",
            expected=f"all {plan.world_size} ranks of the plan",
            fix="look at those ranks' logs; launch.timeout sets how long to wait",
        )


def _told(plan: Plan, reports: Mapping[int, Report]) -> Iterator[Problem]:
    """What ranks found wrong themselves, each Problem once, with the ranks that have it unless all do."""
    ranks_by_problem: dict[Problem, list[Report]] = {}
    for peer in reports.values():
        for problem in dict.fromkeys(peer.problems):
            ranks_by_problem.setdefault(problem, []).append(peer)
    for problem, peers in ranks_by_problem.items():
        if len(peers) < plan.world_size:
            problem = replace(problem, found=f"{problem.found} ({_who(peers)})")
        yield problem


def _differences(reports: Mapping[int, Report]) -> Iterator[Problem]:
    """A rank with another plan, other packages or other code would train something else."""
    own = reports[0]
    names = dict.fromkeys(name for peer in reports.values() for name in peer.holds)
    for name in names:
        peers_by_value: dict[str, list[Report]] = {}
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
                path=None,
                line=None,
                found=f"{_who(peers)} {have} {name} {value}",
                expected=f"{name} {own.holds.get(name, 'none')}, as on rank 0 on {own.host}",
                fix=_FIXES.get(name, f"use the same {name} on all hosts"),
            )


_FIXES = {
    "plan": "use the same strategy file and overrides on all hosts",
    "stage tables": "use the same code on all hosts",
    "code": "bring the project's folder to the same state on all hosts (git status, git rev-parse HEAD)",
}


def _split_groups(plan: Plan, reports: Mapping[int, Report]) -> Iterator[Problem]:
    """TP partners exchange every layer's activations, and count on being in one host."""
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
            path="parallel.tp",
            line=None,
            found=f"the TP group of {_ranks(split[0])} spans {hosts}{more}",
            expected="every TP group inside one host",
            fix="start ranks in blocks that tp divides on every host, as `python -m launch generate` does",
        )


def _shared_devices(reports: Mapping[int, Report]) -> Iterator[Problem]:
    by_device: dict[str, list[Report]] = {}
    for peer in reports.values():
        if peer.device:
            by_device.setdefault(peer.device, []).append(peer)
    for device, peers in by_device.items():
        if len(peers) > 1:
            yield Problem(
                path=None,
                line=None,
                found=f"{_who(peers)} have one GPU together, {device}",
                expected="a GPU for each rank",
                fix="check that no host is in the hostfile under two names, and what sets LOCAL_RANK",
            )


def _other_hosts(plan: Plan, reports: Mapping[int, Report]) -> Iterator[Problem]:
    """Hosts that DeepSpeed was given in another order, or others, than the launch was generated for."""
    planned = [(host.name, len(host.ranks)) for host in plan.hosts]
    peers_by_hosts: dict[tuple[tuple[str, int], ...], list[Report]] = {}
    for peer in reports.values():
        if peer.hosts is not None and not _carry(peer.hosts, planned, plan):
            peers_by_hosts.setdefault(tuple(peer.hosts.items()), []).append(peer)
    for hosts, peers in peers_by_hosts.items():
        yield Problem(
            path=None,
            line=None,
            found=f"{_who(peers)}: DeepSpeed was given the hosts {_slots(hosts)}",
            expected=f"{_slots(planned)}, as in the plan's hostfile",
            fix="start it with the generated hostfile as it was written, or generate again for these hosts",
        )


def _carry(given: Mapping[str, int], planned: list[tuple[str, int]], plan: Plan) -> bool:
    """Whether ranks land where the plan has them; the last host may have more, whose processes just end."""
    hosts = list(given.items())[: len(planned)]
    if len(hosts) < len(planned):
        return False
    if not plan.strategy.cluster.hosts.are_made_up and [name for name, _ in hosts] != [
        name for name, _ in planned
    ]:
        return False
    sizes, wanted = [size for _, size in hosts], [size for _, size in planned]
    return sizes[:-1] == wanted[:-1] and sizes[-1] >= wanted[-1]


def _other_local_ranks(plan: Plan, reports: Mapping[int, Report]) -> Iterator[Problem]:
    wrong = [
        peer for peer in reports.values() if peer.local_rank != peer.rank - plan.host_of(peer.rank).ranks[0]
    ]
    if wrong:
        first = wrong[0]
        planned = first.rank - plan.host_of(first.rank).ranks[0]
        which = "" if len(wrong) == 1 else f" (rank {first.rank})"
        yield Problem(
            path=None,
            line=None,
            found=f"{_who(wrong)}: LOCAL_RANK is {first.local_rank}{which}",
            expected=f"{planned}{which}, as in plan.json",
            fix="start as many ranks on each host as the generated hostfile says, in its order",
        )


def _who(peers: Iterable[Report]) -> str:
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
