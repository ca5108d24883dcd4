"""Two trainings on hosts of which one goes away: cut off, then switched off. Prints what was seen."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.jobs import Job, until
from tests.support.namespaces import NamespaceHosts

STRATEGY = (
    "cluster.hosts=[node1, node2]",
    "cluster.gpus_per_host=1",
    "parallel={ep: 2, zero_stage: 1}",
    "training.steps=100000",
    "launch.network_interface=eth0",
    "launch.timeout=60 s",
)
# Found out sooner than by the options of launch.sh, which come after these.
ENV = {"PDSH_SSH_ARGS_APPEND": "-o ServerAliveInterval=2 -o ServerAliveCountMax=2"}


def main(folder: Path) -> None:
    hosts = NamespaceHosts(folder, 2)
    seen: dict[str, Any] = {}
    for name, act in {"cut": hosts.cut, "off": hosts.power_off}.items():
        job = Job(folder, name, hosts.ssh_config, *STRATEGY)
        job.start(env=ENV)
        job.wait_for_step(3)
        act("node2")
        began = time.monotonic()
        code, said = job.finish()
        seen[name] = {"code": code, "seconds": time.monotonic() - began, "said": said}
        if name == "cut":
            seen[name]["left on the cut host"] = len(job.processes())
            until(lambda job=job: job.processes() == [], 300)
            hosts.mend("node2")
        seen[name]["left"] = [process.cmdline() for process in job.processes()]
        seen[name]["done"] = (job.run / "done.json").exists()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
