"""Rank for tests of the hand-over: does what its first argument says."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.process.handover import hand_over
from runtime.process.started_by import is_forked, launcher_id


def main(arguments: Sequence[str]) -> None:
    what = arguments[0]
    if what == "tell":
        told = {
            "argv": sys.argv,
            "folder": os.getcwd(),  # noqa: PTH109
            "mark": os.environ.get("MARK"),
            "is_forked": is_forked(),
            "launcher": launcher_id(),
            "stdin": sys.stdin.read(),
        }
        print(json.dumps(told))
        print("on stderr", file=sys.stderr)
        sys.exit(7)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(13))
        Path(arguments[1]).write_text(str(os.getpid()))
        time.sleep(60)


if __name__ == "__main__":
    code = hand_over("tests.support.forked_rank", sys.argv[1:])
    if code is None:
        main(sys.argv[1:])
    sys.exit(code)
