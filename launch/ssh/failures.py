"""Why a host could not be asked: what OpenSSH, a shell and Python say, and what is to be done about it."""

import re
from dataclasses import dataclass

# Exit codes of the shell line in launch/ssh/client.py; ssh's own is 255, the shell's are 126 and 127.
NO_FOLDER, NO_PYTHON = 97, 98
KINDS = (
    "unreachable",
    "name unknown",
    "key refused",
    "host key unknown",
    "host key changed",
    "time-out",
    "folder missing",
    "python missing",
    "broken answer",
    "ssh configuration",
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`kind` is one of KINDS."""

    kind: str
    found: str
    expected: str
    fix: str


class HostFailed(Exception):
    """A host could not be asked; carries its Failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.found)


# Words of OpenSSH (9.2, ssh.c, sshconnect.c, sshconnect2.c) and of strerror, and what they come to.
_SSH_SAYS = (
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
    "host key changed": "find out why ({host} was installed anew, or is another machine), "
    "then `ssh-keygen -R {host}`",
    "host key unknown": "log in once by hand and compare the key, or add it to known_hosts",
    "key refused": "put this machine's public key into authorized_keys there; ssh may ask no password here",
    "time-out": "look whether the host is up, and whether a firewall drops ssh's port",
    "unreachable": "look whether the host is up and runs sshd on the port of the ssh configuration",
}


def explain(host: str, code: int, stderr: str) -> Failure:
    """What it means that ssh, or the program behind it, ended with `code` before it answered."""
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = said[-1][:300] if said else "it said nothing"
    if code == NO_FOLDER:
        return Failure(
            kind="folder missing",
            found=f"the project's folder is not on {host}: {last}",
            expected="the project at the same path on all hosts",
            fix="mount the shared folder there, or work from one that all hosts have",
        )
    if code == NO_PYTHON:
        return Failure(
            kind="python missing",
            found=f"the launch's interpreter is not on {host}",
            expected="the same interpreter at the same path on all hosts",
            fix="install the environment there at that path, or name another with launch.python",
        )
    if code == 255:
        kind = next((kind for words, kind in _SSH_SAYS if re.search(words, stderr)), "unreachable")
        telling = [line for line in said if any(re.search(words, line) for words, _ in _SSH_SAYS)]
        return Failure(
            kind=kind,
            found=f"ssh to {host}: {kind}: {(telling or [last])[0].rstrip('.')}",
            expected=f"`ssh {host} true` ends without a question",
            fix=_FIXES[kind].format(host=host),
        )
    if re.search(r"No module named '?launch", stderr):
        found = f"the project on {host} has no launch/remote/host_inspector.py: {last}"
        fix = "bring the same version of the project to all hosts"
    else:
        found = f"the inspection on {host} ended with {code}: {last}"
        fix = f"run `{{python}} -m launch.remote.host_inspector` on {host} and see what is missing"
        fix = fix.format(python="python")
    return Failure(kind="broken answer", found=found, expected="the same project and environment", fix=fix)
