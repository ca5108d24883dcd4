"""Fork server for tests: `LINK -m tests.support.fork_server_run`. Says "ready"; imports nothing else."""

import importlib
import os
import signal
import sys

from runtime.process.fork_server import ForkServer
from runtime.process.handover import socket_path
from runtime.warm_parent import listen


def main() -> None:
    listener = listen(socket_path())
    assert listener is not None
    with listener:
        server = ForkServer(listener, dict(os.environ))
        signal.signal(signal.SIGTERM, server.close)
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as runtime/warm_parent.py does
        print("ready", flush=True)
        start = server.serve()
    if start is not None:
        importlib.import_module(start.program).main(start.argv[1:])


if __name__ == "__main__":
    main()
    sys.exit(0)
