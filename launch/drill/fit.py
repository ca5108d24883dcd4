"""Strategy of a drill: the user's model and training, on 8 ranks and for a dozen steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from planner import Plan, Problem, StrategyError, build_plan
from planner.memory.rank_memory import rank_memory
from planner.strategy.changes import change_keys, change_parallel
from planner.strategy.hosts import Hosts
from planner.strategy.schema import Strategy
from planner.units import format_bytes

NUM_RANKS, RANKS_PER_HOST, NUM_SPARES = 8, 2, 1
NUM_STEPS = 14
HANG_TIMEOUT_S = 10.0
# The first of each phase may take so long, and a collective.
LAUNCH_TIMEOUT_S = 60.0
_LINK_BYTES_PER_S = 1e9
# Of a host's warm parent: torch, DeepSpeed and the interpreter (measured: 300 MiB).
WARM_PARENT_BYTES = 300 * 2**20


@dataclass(frozen=True, kw_only=True)
class DrillSite:
    """Where the drills' runs are: hosts, how ssh reaches them, their network interface if it is named.

    hosts: None for the strategy's own.
    """

    folder: Path
    hosts: tuple[str, ...] | None = None
    ssh_config: Path | None = None
    interface: str | None = None


def fit(strategy: Strategy) -> Strategy:
    """The strategy on 8 ranks: another dp if that is enough, else another ep too.

    Raises:
        StrategyError: if no such layout has a legal plan.
    """
    first: StrategyError | None = None
    for candidate in _candidates(strategy):
        try:
            plan = build_plan(candidate)
        except StrategyError as error:
            first = first or error
            continue
        if plan.world_size == NUM_RANKS:
            return candidate
    found = f"no dp and ep give {strategy.parallel.layout_name} a legal plan on {NUM_RANKS} ranks"
    if first is not None:
        found += f"; the first that was tried: {first.problems[0].found}"
    raise StrategyError(
        [
            Problem(
                code="SW472",
                path="parallel",
                found=found,
                expected=f"a layout that dp, or dp and ep, can bring to {NUM_RANKS} ranks",
                fix="override what it names, as in parallel.tp=1 parallel.pp=1 training.global_batch=16",
            )
        ]
    )


def at_site(strategy: Strategy, site: DrillSite, name: str, *, checkpoint_every: int = 2) -> Strategy:
    """A fitted strategy as a run of its own on the drill's hosts."""
    changes: dict[str, object] = {
        "output.folder": str(site.folder / "runs"),
        "output.checkpoint_every": checkpoint_every,
    }
    if site.hosts is not None:
        changes |= {
            "cluster.hosts": Hosts(names=site.hosts, slots=tuple(None for _ in site.hosts)),
            "launch.ssh_config": str(site.ssh_config),
            "launch.network_interface": site.interface,
        }
    return change_keys(strategy.model_copy(update={"name": name}), changes)


def _candidates(strategy: Strategy) -> Iterator[Strategy]:
    small = _small(strategy)
    own = strategy.parallel
    for ep in (own.ep, *sorted(range(1, NUM_RANKS + 1), key=lambda ep: (abs(ep - own.ep), -ep))):
        for dp in sorted(range(1, NUM_RANKS + 1), key=lambda dp: (abs(dp - own.dp), dp)):
            for micro_batch in range(strategy.training.micro_batch, 0, -1):
                try:
                    candidate = change_parallel(small, {"ep": ep, "dp": dp})
                    yield change_keys(candidate, {"training.micro_batch": micro_batch})
                except ValidationError:
                    continue


def shorten(strategy: Strategy) -> Strategy:
    """The strategy for a dozen steps; what only a long run needs is left out."""
    training: dict[str, object] = {"training.steps": NUM_STEPS, "training.schedule_steps": None}
    if strategy.training.warmup_steps >= NUM_STEPS:
        training["training.warmup_steps"] = 3
    if strategy.training.tokens is not None:
        training["training.tokens"] = None
    return change_keys(
        strategy,
        {
            **training,
            "operate.hang_timeout": HANG_TIMEOUT_S,
            "operate.restarts_per_hour": 1000,
            "operate.hook": None,
            "operate.wandb": None,
            "output.checkpoint_every": 2,
            "output.validate_every": 4,
            "output.keep_last": 2,
            "output.keep_every": None,
            "output.resume": "auto",
            "output.branch": False,
        },
    )


def _small(strategy: Strategy) -> Strategy:
    """On CPUs of a few made-up hosts, and short."""
    count = NUM_RANKS // RANKS_PER_HOST + NUM_SPARES
    names = tuple(f"node{number}" for number in range(1, count + 1))
    return change_keys(
        shorten(strategy),
        {
            "cluster.hosts": Hosts(names=names, slots=tuple(None for _ in names)),
            "cluster.gpus_per_host": RANKS_PER_HOST,
            "cluster.spare_hosts": NUM_SPARES,
            "cluster.gpu": "cpu",
            "cluster.links": {"intra_host": _LINK_BYTES_PER_S, "inter_host": _LINK_BYTES_PER_S},
            "launch.timeout": LAUNCH_TIMEOUT_S,
            "launch.launcher": "deepspeed",
        },
    )


def memory_problem(plan: Plan, available_bytes: int, *, num_runs: int = 1) -> Problem | None:
    """All ranks are processes of this machine, those of `num_runs` runs at once."""
    needed = sum(memory.peak_bytes for memory in (rank_memory(plan, rank) for rank in range(plan.world_size)))
    needed = num_runs * (needed + plan.strategy.cluster.hosts.count * WARM_PARENT_BYTES)
    if needed <= available_bytes:
        return None
    return Problem(
        code="SW473",
        path="model",
        found=f"{num_runs * plan.world_size} ranks of it need about {format_bytes(needed)} on this machine, "
        f"which has {format_bytes(available_bytes)} free",
        expected="a model that this machine can train",
        fix="override its sizes for the drill, as in model.num_hidden_layers=2 model.num_experts=8",
    )
