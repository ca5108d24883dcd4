"""The program `python -m runtime.attempts set-aside RUN`: makes room for a fresh start."""

import sys

from runtime.startup.attempts import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
