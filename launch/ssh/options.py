"""With which options ssh is run: one list for launch.sh and for preflight, so that they cannot drift."""

from collections.abc import Mapping
from pathlib import Path

# Never a prompt, and an end where a host is cut off: without keep-alives pdsh would wait for ever.
# pdsh 2.34 puts its own -oConnectTimeout=10 before all others, and ssh takes the first.
OPTIONS = (
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=6",
)
# What pdsh passes, and launch.sh cannot change: no forwarding of agents and displays.
_OF_PDSH = ("-a", "-x")


def ssh_arguments(ssh_config: Path | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The options of an ssh as the launch's pdsh runs it: the operator's PDSH_SSH_ARGS_APPEND come first."""
    own = environ.get("PDSH_SSH_ARGS_APPEND", "").split()
    config = () if ssh_config is None else ("-F", str(ssh_config))
    return (*own, *OPTIONS, *config, *_OF_PDSH)
