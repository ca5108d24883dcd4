"""Programs of this project in a shell that redirects their standard streams."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_in_shell(arguments: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a shell whose redirection it gets. stdin is left alone."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
