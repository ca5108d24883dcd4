"""train.py, which leaves the names of all modules that its rank has imported, in FOLDER/modules-RANK.json.

`deepspeed --module tests.support.module_list FOLDER --strategy FILE`
"""

import json
import os
import sys
from pathlib import Path

import train


def main() -> None:
    folder = Path(sys.argv[1])
    leave = os._exit

    def note_and_leave(code: int) -> None:
        (folder / f"modules-{os.environ['RANK']}.json").write_text(json.dumps(sorted(sys.modules)))
        leave(code)

    os._exit = note_and_leave
    train.main(sys.argv[2:])


if __name__ == "__main__":
    main()
