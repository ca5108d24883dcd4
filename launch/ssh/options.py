"""ssh options, one list for launch.sh and preflight."""

from collections.abc import Mapping
from pathlib import Path

# No prompts, and keep-alives: without them pdsh would wait forever for a host that is cut off.
# pdsh 2.34 puts its own -oConnectTimeout=10 before all others, and ssh uses the first.
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
# Always passed by pdsh: no forwarding of agents and displays.
_OF_PDSH = ("-a", "-x")


def ssh_arguments(ssh_config: Path | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The options that pdsh passes in a launch; the operator's PDSH_SSH_ARGS_APPEND come first."""
    own = environ.get("PDSH_SSH_ARGS_APPEND", "").split()
    config = () if ssh_config is None else ("-F", str(ssh_config))
    return (*own, *OPTIONS, *config, *_OF_PDSH)
