"""Addresses where a path is read: s3://, hf://, https:// are no folders, and how each is copied to one."""

import re
import shlex

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")


def is_address(value: str) -> bool:
    """Whether a text is an address: nothing here reads one."""
    return _ADDRESS.fullmatch(value) is not None


def path_of_address(value: str) -> str | None:
    """The path of a file:// address; None for any other."""
    match = _ADDRESS.fullmatch(value)
    if match is None or match.group(1).lower() != "file":
        return None
    rest = match.group(2)
    return rest if rest.startswith("/") else f"/{rest.partition('/')[2]}"


def copy_command(value: str) -> str:
    """The command of the usual program that copies an address to a folder; empty if none is known."""
    match = _ADDRESS.fullmatch(value)
    return "" if match is None else _command(match.group(1).lower(), match.group(2), value)


def _command(scheme: str, rest: str, value: str) -> str:
    name = shlex.quote(rest.rstrip("/").rpartition("/")[2] or "texts")
    source = shlex.quote(value)
    if scheme in ("hf", "huggingface"):
        kind, _, repository = rest.partition("/")
        if kind in ("datasets", "spaces", "models"):
            repository = "/".join(repository.split("/")[:2])
            what = "" if kind == "models" else f" --repo-type {kind.removesuffix('s')}"
        else:
            repository, what = "/".join(rest.split("/")[:2]), ""
        return f"hf download {shlex.quote(repository)}{what} --local-dir {name}"
    is_file = "." in rest.rpartition("/")[2]
    if scheme in ("s3", "s3a") and is_file:
        return f"aws s3 cp {shlex.quote(f's3://{rest}')} {name}"
    if scheme in ("gs", "gcs") and is_file:
        return f"gcloud storage cp {shlex.quote(f'gs://{rest}')} {name}"
    if scheme in ("s3", "s3a"):
        return f"aws s3 sync {shlex.quote(f's3://{rest}')} {name}"
    if scheme in ("gs", "gcs"):
        return f"gcloud storage rsync -r {shlex.quote(f'gs://{rest}')} {name}"
    if scheme in ("http", "https", "ftp"):
        return f"curl -L -o {name} {source}"
    return ""
