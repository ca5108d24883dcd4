"""Secret of an attempt: what its ranks share and strangers do not know, wherever the launcher lets it travel.

| start | the secret is |
| --- | --- |
| SWITCHYARD_SECRET is set | that text; it must be the same for all ranks |
| launch.sh | in a file beside the attempt's link to the interpreter, which only its owner reads |
| all ranks on one host | in a file of this user in /tmp, made by whichever rank is first |
| by hand, over several hosts | none |

A file, where there is one for all: DeepSpeed passes variables to other hosts on command lines, which every
user of a host can read.
"""

import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.problems import Problem, StrategyError
from runtime.process.job import link_of

VARIABLE = "SWITCHYARD_SECRET"
FILE_NAME = "secret"  # launch/job.py writes it beside the link
MIN_LENGTH = 16  # characters; `openssl rand -hex 32` has 64
_NUM_BYTES = 32


def secret_of_attempt(
    environment: Mapping[str, str] = os.environ,
    *,
    is_on_one_host: bool,
    executable: str = sys.executable,
    folder: Path = Path("/tmp"),  # not TMPDIR, of which a batch system may give each rank its own
) -> str | None:
    """The secret; None where the ranks of this start have none in common.

    Args:
        folder: where this user's key of this host is.

    Raises:
        StrategyError: if the variable is too short, or the file of a generated launch cannot be read.
    """
    written = environment.get(VARIABLE)
    if written:
        if len(written) < MIN_LENGTH:
            raise StrategyError([_too_short(len(written))])
        return written
    if link_of(executable):
        return _read_of_launch(Path(executable).with_name(FILE_NAME))
    return key_of_user(folder / f"switchyard-{os.getuid()}") if is_on_one_host else None


def key_of_user(folder: Path) -> str | None:
    """The key in a folder that only this user can read, made if it is not there; None if that cannot be."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(folder, stat.S_ISDIR):
            return None  # another user's, who would know the key
        path = folder / "key"
        if not path.exists():
            new = folder / f".key-{secrets.token_hex(8)}"
            new.touch(mode=0o600, exist_ok=False)
            new.write_text(secrets.token_hex(_NUM_BYTES), encoding="ascii")
            try:
                os.link(new, path)  # of ranks that do so at the same time, one succeeds
            except FileExistsError:
                pass
            finally:
                new.unlink()
        return path.read_text(encoding="ascii") if _is_private(path, stat.S_ISREG) else None
    except (OSError, ValueError):
        return None


def _read_of_launch(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        problem = Problem(
            code="SW607",
            found=f"the secret of this launch, {path}, cannot be read: {reason}",
            expected="the file that launch.sh has made, readable by the user as whom the ranks run",
            fix="run the ranks on all hosts as the user who starts launch.sh",
        )
        raise StrategyError([problem]) from None


def _is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    found = path.lstat()
    return is_kind(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _too_short(length: int) -> Problem:
    return Problem(
        code="SW606",
        found=f"{VARIABLE} has {length} characters",
        expected=f"a random text of {MIN_LENGTH} characters or more, the same for all ranks",
        fix=f"export {VARIABLE}=$(openssl rand -hex 32), or unset it",
    )
