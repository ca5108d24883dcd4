"""Groups of drills: each a supervised run with faults at its steps, and what this program does meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.drill.hosts import Hosts, NamespaceHosts
from launch.drill.kinds import SAVE_PHASES, Kind
from launch.drill.run import DrillFailed, DrillRun, Fault

# The first faults come after the first checkpoint, which is of step 2.
_FIRST = 3
# Rank and step of each kind; of 8 ranks, two a host. The next attempt resumes from the last even step, or
# from the one at which a signal has stopped it. A hang is found soon where the attempt has done a step
# beside its first: so hangs come at the first attempt's fourth step, or after two kinds that save nothing.
# After a signal, which saves, a step without a fault shows that the run is back; at the last step it would
# stop nothing.
_RANKS = {
    "sigstop": (6, 4),
    "exception": (1, 5),
    "thread-exception": (2, 6),
    "held-lock": (3, 7),
    "segfault": (2, 8),
    "abort": (5, 9),
    "sigint": (0, 10),
    "sigkill": (7, 12),
    "sigterm": (4, 13),
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """A supervised run.

    names: of the faults of each kind. act: what this program does while the run trains. is_new_layout:
    whether it ends in another layout. checkpoint_every: steps.
    """

    name: str
    kinds: tuple[Kind, ...]
    faults: tuple[Fault, ...]
    names: dict[str, tuple[str, ...]]
    act: Callable[[DrillRun, Hosts], object]
    is_new_layout: bool = False
    checkpoint_every: int = 2


def make_group(name: str, kinds: Sequence[Kind]) -> Group:
    """The group of this name, with these of its kinds only."""
    return _MAKERS[name](tuple(kinds))


def _ranks(kinds: tuple[Kind, ...]) -> Group:
    faults = tuple(
        Fault(name=kind.name, kind=kind.name, rank=rank, step=step)
        for kind, (rank, step) in ((kind, _RANKS[kind.name]) for kind in kinds)
    )
    return Group(name="ranks", kinds=kinds, faults=faults, names=_one_each(kinds), act=_wait)


def _saves(kinds: tuple[Kind, ...]) -> Group:
    """Rank 0 goes through all phases of a save; of the shards, another one's is cut off."""
    faults = tuple(
        Fault(
            name=f"save-kill-{phase}",
            kind="save-kill",
            rank=3 if phase == "shard" else 0,
            step=step,
            phase=phase,
        )
        for step, phase in enumerate(SAVE_PHASES, start=_FIRST)
    )
    names = {"save-kill": tuple(fault.name for fault in faults)}
    return Group(name="saves", kinds=kinds, faults=faults, names=names, act=_wait, checkpoint_every=1)


def _checkpoints(kinds: tuple[Kind, ...]) -> Group:
    faults: list[Fault] = []
    wanted = {kind.name for kind in kinds}
    if "disk-full" in wanted:
        faults.append(Fault(name="disk-full", kind="disk-full", rank=3, step=4, phase="shard"))
    if "corrupt-checkpoint" in wanted:
        faults.append(Fault(name="corrupt-wait", kind="wait", rank=0, step=7))
        faults.append(Fault(name="corrupt-checkpoint", kind="sigkill", rank=1, step=8))

    def act(run: DrillRun, hosts: Hosts) -> None:
        if "corrupt-checkpoint" in wanted:
            run.wait_for("corrupt-wait")
            alter_newest(run.folder / "checkpoints")
            run.go("corrupt-wait")

    return Group(name="checkpoints", kinds=kinds, faults=tuple(faults), names=_one_each(kinds), act=act)


def _network(kinds: tuple[Kind, ...]) -> Group:
    wanted = {kind.name for kind in kinds}
    faults: list[Fault] = []
    if "slow-network" in wanted:
        faults.append(Fault(name="slow-network", kind="wait", rank=0, step=3))
        faults.append(Fault(name="slow-network-end", kind="wait", rank=0, step=6))
    if "cut-network" in wanted:
        faults.append(Fault(name="cut-network", kind="wait", rank=0, step=8))

    def act(run: DrillRun, hosts: Hosts) -> None:
        assert isinstance(hosts, NamespaceHosts), "hosts with a network of their own"
        if "slow-network" in wanted:
            run.wait_for("slow-network")
            hosts.slow_down("node2")
            run.go("slow-network")
            run.wait_for("slow-network-end")
            hosts.speed_up("node2")
            run.go("slow-network-end")
        if "cut-network" in wanted:
            run.wait_for("cut-network")
            hosts.cut("node3")
            run.go("cut-network")

    return Group(name="network", kinds=kinds, faults=tuple(faults), names=_one_each(kinds), act=act)


def _supervisor(kinds: tuple[Kind, ...]) -> Group:
    def act(run: DrillRun, hosts: Hosts) -> None:
        run.wait_for("supervisor-killed")
        run.kill_supervisor()
        run.start()

    fault = Fault(name="supervisor-killed", kind="wait", rank=0, step=5)
    return Group(name="supervisor", kinds=kinds, faults=(fault,), names=_one_each(kinds), act=act)


def _fallback(kinds: tuple[Kind, ...]) -> Group:
    def act(run: DrillRun, hosts: Hosts) -> None:
        run.wait_for("too-few-spares")
        lost = run.hosts()[-2:]
        ranks = {name: run.ranks_on(name) for name in lost}
        for name in lost:
            hosts.power_off(name, ranks[name])
        run.go("too-few-spares")

    fault = Fault(name="too-few-spares", kind="wait", rank=0, step=7)
    return Group(
        name="fallback",
        kinds=kinds,
        faults=(fault,),
        names=_one_each(kinds),
        act=act,
        is_new_layout=True,
    )


def alter_newest(checkpoints: Path) -> None:
    """Changes one byte in the middle of a file of the newest checkpoint.

    Raises:
        DrillFailed: if there is none.
    """
    files = sorted(checkpoints.glob("step-*/*.safetensors"))
    if not files:
        raise DrillFailed("there is no checkpoint to alter")
    newest = files[-1]
    with newest.open("r+b") as file:
        file.seek(newest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))


def _wait(run: DrillRun, hosts: Hosts) -> None:
    """The ranks do everything themselves."""


def _one_each(kinds: tuple[Kind, ...]) -> dict[str, tuple[str, ...]]:
    return {kind.name: (kind.name,) for kind in kinds}


_MAKERS: dict[str, Callable[[tuple[Kind, ...]], Group]] = {
    "ranks": _ranks,
    "saves": _saves,
    "checkpoints": _checkpoints,
    "network": _network,
    "supervisor": _supervisor,
    "fallback": _fallback,
}
