"""Program of the drills, beside their hosts: `python -m launch.drill FOLDER`, started by the `drill` command.

FOLDER/settings.json says what to do. It prints what happens, and leaves FOLDER/result.json.
"""

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.drill.at_random import drill_at_random
from launch.drill.cluster import ClusterHosts
from launch.drill.drills import drill
from launch.drill.fit import NUM_RANKS, NUM_SPARES, RANKS_PER_HOST, DrillSite
from launch.drill.hosts import CannotHaveHosts, Hosts, LoopbackHosts, NamespaceHosts
from launch.drill.kinds import KINDS, Where
from launch.drill.run import DrillFailed
from planner import load
from planner.files import write_new
from planner.strategy.schema import Strategy

NUM_HOSTS = NUM_RANKS // RANKS_PER_HOST + NUM_SPARES


def main(folder: Path) -> int:
    """0 if it came to its end, whatever the drills showed; 3 otherwise, with the reason on stderr."""
    settings = json.loads((folder / "settings.json").read_bytes())
    kinds = [kind for kind in KINDS if kind.name in settings["kinds"]]
    strategy = load(str(folder / "strategy.yaml"))
    hosts = _hosts(settings["where"], folder, strategy)
    results: list[dict[str, Any]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # through `finally`
    try:
        hosts.start()
        site = _site(hosts, folder)
        if settings["seconds"] is not None:
            named = {name: settings[name] for name in ("seconds", "mtbf_s", "seed")}
            results.append(asdict(drill_at_random(strategy, site, kinds, tell=_tell, **named)))
            return 0
        for result in drill(strategy, site, hosts, kinds, _tell):
            results.append(asdict(result))
            seconds = "never" if result.seconds is None else f"{result.seconds:.1f} s"
            _tell(f"  {result.name}: recovered: {seconds}{''.join(f'; {text}' for text in result.faults)}")
    except (CannotHaveHosts, DrillFailed) as error:
        print(f"SW474 the drills did not come to their end: {error}", file=sys.stderr)
        return 3
    finally:
        write_new(folder / "result.json", json.dumps(results).encode())
        hosts.close()
    return 0


def _hosts(where: str, folder: Path, strategy: Strategy) -> Hosts:
    if where == Where.CLUSTER:
        return ClusterHosts(strategy)
    return (NamespaceHosts if where == Where.NAMESPACES else LoopbackHosts)(folder, NUM_HOSTS)


def _site(hosts: Hosts, folder: Path) -> DrillSite:
    if isinstance(hosts, ClusterHosts):
        return DrillSite(folder=folder)
    return DrillSite(folder=folder, hosts=hosts.names, ssh_config=hosts.ssh_config, interface=hosts.interface)


def _tell(text: str) -> None:
    print(f"drill: {text}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m launch.drill FOLDER, which `python -m launch drill` starts", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
