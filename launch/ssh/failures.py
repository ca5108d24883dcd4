"""Failures of a conversation over ssh: causes recognized from exit codes and stderr, and their fixes."""

import re
from dataclasses import dataclass

# Exit codes of the shell line in launch/ssh/client.py; ssh's own is 255, the shell's are 126 and 127.
NO_FOLDER, NO_PYTHON = 97, 98
# Kinds of failures and their error codes.
KINDS = {
    "unreachable": "SW501",
    "name unknown": "SW502",
    "key refused": "SW503",
    "host key unknown": "SW504",
    "host key changed": "SW504",
    "time-out": "SW505",
    "folder missing": "SW506",
    "python missing": "SW507",
    "broken answer": "SW508",
    "ssh configuration": "SW509",
}


@dataclass(frozen=True, kw_only=True)
class HostFailure:
    """`kind` is one of KINDS."""

    kind: str
    found: str
    expected: str
    fix: str

    @property
    def code(self) -> str:
        return KINDS[self.kind]


class HostFailed(Exception):
    """A host did not answer; carries its HostFailure."""

    def __init__(self, failure: HostFailure) -> None:
        self.failure = failure
        super().__init__(failure.found)


# Messages of OpenSSH (9.2, ssh.c, sshconnect.c, sshconnect2.c) and of strerror, and the kind of failure.
_SSH_MESSAGES = (
    (r"[Bb]ad configuration option|Bad owner or permissions on", "ssh configuration"),
    (r"Could not resolve hostname", "name unknown"),
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|has changed and you have requested strict", "host key changed"),
    (r"Host key verification failed|No \S+ host key is known", "host key unknown"),
    (r"Permission denied|Too many authentication failures", "key refused"),
    (r"[Tt]imed out|Timeout, server", "time-out"),
    (r"Connection refused|No route to host|Network is unreachable|Connection (reset|closed)", "unreachable"),
)
_FIXES = {
    "ssh configuration": "correct the ssh configuration (launch.ssh_config, or the one in ~/.ssh)",
    "name unknown": "correct the name under cluster.hosts, or give it a HostName in the ssh configuration",
    "host key changed": "if {host} was reinstalled or replaced, run `ssh-keygen -R {host}`; "
    "otherwise find out what answers in its place",
    "host key unknown": "log in once by hand and verify the key, or add it to known_hosts",
    "key refused": "add this machine's public key to authorized_keys there; ssh cannot prompt for a password",
    "time-out": "check that the host is up and that no firewall drops ssh's port",
    "unreachable": "check that the host is up and runs sshd on the port of the ssh configuration",
}


def explain(host: str, code: int, stderr: str) -> HostFailure:
    """Why ssh, or the program on the host, ended with exit code `code` before it answered."""
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = said[-1][:300] if said else "no output"
    if code == NO_FOLDER:
        return HostFailure(
            kind="folder missing",
            found=f"no project folder on {host}: {last}",
            expected="the project at the same path on all hosts",
            fix="mount the shared folder there, or move the project to one that all hosts have",
        )
    if code == NO_PYTHON:
        return HostFailure(
            kind="python missing",
            found=f"no Python interpreter of the launch on {host}",
            expected="the same interpreter at the same path on all hosts",
            fix="install the environment at that path there, or set launch.python",
        )
    if code == 255:
        kind = next((kind for words, kind in _SSH_MESSAGES if re.search(words, stderr)), "unreachable")
        telling = [line for line in said if any(re.search(words, line) for words, _ in _SSH_MESSAGES)]
        return HostFailure(
            kind=kind,
            found=f"ssh to {host}: {kind}: {(telling or [last])[0].rstrip('.')}",
            expected=f"`ssh {host} true` works without a prompt",
            fix=_FIXES[kind].format(host=host),
        )
    if re.search(r"No module named '?launch", stderr):
        found = f"no launch/remote/host_inspector.py on {host}: {last}"
        fix = "install the same version of the project on all hosts"
    else:
        found = f"host_inspector on {host} ended with exit code {code}: {last}"
        fix = f"run `python -m launch.remote.host_inspector` on {host} to see what is missing"
    return HostFailure(
        kind="broken answer", found=found, expected="the same project and environment", fix=fix
    )
