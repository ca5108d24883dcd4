"""Kinds of drills: what is done to a run, and what its supervisor is expected to call it."""

from dataclasses import dataclass
from enum import Enum

from launch.supervisor.verdict import Cause


class Place(Enum):
    """Who does it. The rank itself, or this program: to hosts, or to the run's files and programs."""

    RANK = "rank"
    HOSTS = "hosts"
    RUN = "run"


class Where(str, Enum):
    """Which hosts a drill has: made on this machine, with a network of their own or not; the strategy's."""

    NAMESPACES = "namespaces"
    LOOPBACK = "loopback"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """
    causes: one of which the journal must give for the restart that follows; none: no restart may follow.
    group: kinds of one group share a supervised run. needs_network: hosts that have a network of their own.
    """

    name: str
    text: str
    causes: tuple[Cause, ...]
    group: str
    place: Place = Place.RANK
    needs_network: bool = False


_LOST, _HUNG = (Cause.RANK_LOST,), (Cause.HANG,)
# Ranks that are cut off may be seen to hang, or to be gone, before their host is found not to answer.
_HOST = (Cause.HOST_LOST,)
KINDS = (
    Kind(name="exception", text="Python exception in a rank", causes=(Cause.PROGRAM,), group="ranks"),
    Kind(
        name="thread-exception",
        text="exception in a thread of a rank",
        causes=(Cause.PROGRAM,),
        group="ranks",
    ),
    Kind(name="segfault", text="segmentation fault in a rank", causes=_LOST, group="ranks"),
    Kind(name="abort", text="abort() in a rank", causes=_LOST, group="ranks"),
    Kind(name="sigint", text="SIGINT to a rank", causes=(Cause.STOPPED,), group="ranks"),
    Kind(name="sigkill", text="SIGKILL to a rank", causes=_LOST, group="ranks"),
    Kind(name="sigterm", text="SIGTERM to a rank", causes=(Cause.STOPPED,), group="ranks"),
    Kind(name="sigstop", text="SIGSTOP to a rank", causes=_HUNG, group="ranks"),
    Kind(
        name="held-lock",
        text="a C library holds a rank's interpreter lock for good",
        causes=_HUNG,
        group="ranks",
    ),
    Kind(
        name="cut-network",
        text="the network of a host is cut",
        causes=_HOST,
        group="network",
        place=Place.HOSTS,
        needs_network=True,
    ),
    Kind(
        name="slow-network",
        text="the network of a host gets slow: nothing may be restarted",
        causes=(),
        group="network",
        place=Place.HOSTS,
        needs_network=True,
    ),
    Kind(name="disk-full", text="the disk is full in a save", causes=(Cause.PROGRAM,), group="checkpoints"),
    Kind(name="save-kill", text="SIGKILL in each phase of a save", causes=_LOST, group="saves"),
    Kind(
        name="corrupt-checkpoint",
        text="a byte of the newest checkpoint is altered, then a rank is killed",
        causes=_LOST,
        group="checkpoints",
        place=Place.RUN,
    ),
    Kind(
        name="supervisor-killed",
        text="SIGKILL to the supervisor, which is started again",
        causes=(),
        group="supervisor",
        place=Place.RUN,
    ),
    Kind(
        name="too-few-spares",
        text="two hosts are lost, and one is spare: another layout",
        causes=_HOST,
        group="fallback",
        place=Place.HOSTS,
    ),
)
NAMES = tuple(kind.name for kind in KINDS)
# In the order in which a save goes through them; the rank is killed before it.
SAVE_PHASES = (
    "folder",
    "shard",
    "files",
    "manifest",
    "commit",
    "latest",
    "latest-rename",
    "prune",
)
