"""Host checks of preflight: facts of each host compared with the strategy or with those of other hosts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from launch.preflight.ask_hosts import HostAnswer
from launch.preflight.check import PreflightCheck, Role, equal_everywhere, failed, passed, unknown
from launch.preflight.gpu_checks import gpu_checks
from launch.remote.host_inspector import PACKAGES
from launch.ssh.failures import HostFailure
from planner import Plan
from planner.plan.code_fingerprint import code_fingerprint
from planner.prediction.run_forecast import checkpoint_bytes
from planner.units import format_bytes

MAX_SKEW_S = 1.0
# A rank opens a socket to each peer in each of its groups; DeepSpeed creates groups of its own over the same
# ranks. Measured with gloo: 420 descriptors at 128 ranks, whose groups have 254 peers.
_FILES_PER_PEER, _OTHER_FILES = 2, 128
# NVIDIA's NCCL user guide (troubleshooting, shared memory) recommends it; a container's default is 64 MB.
SHM_BYTES = 10**9

Answers = Mapping[str, HostAnswer]


def host_checks(
    plan: Plan, roles: tuple[Role, ...], answers: Mapping[str, HostAnswer | HostFailure]
) -> tuple[PreflightCheck, ...]:
    """Every check of every host, by rule, then by host."""
    reached = {host: answer for host, answer in answers.items() if isinstance(answer, HostAnswer)}
    checks = list(_reachable(answers))
    if reached:
        for rule in _RULES:
            checks += rule(plan, roles, reached)
        if not plan.strategy.cluster.gpu.is_cpu:
            checks += gpu_checks(plan, roles, {host: answer.facts for host, answer in reached.items()})
    return tuple(checks)


def _reachable(answers: Mapping[str, HostAnswer | HostFailure]) -> Iterator[PreflightCheck]:
    for host, answer in answers.items():
        if isinstance(answer, HostAnswer):
            yield passed("answers", answer.facts["hostname"], host=host)
        else:
            yield failed(
                answer.code, "answers", answer.found, expected=answer.expected, fix=answer.fix, host=host
            )


def _versions(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    asked: dict[str, Callable[[dict[str, Any]], str | None]] = {"python": lambda facts: facts["python"]}
    for package in PACKAGES:
        asked[package] = lambda facts, package=package: facts["packages"][package]  # type: ignore[misc]
    needed: tuple[str, ...] = PACKAGES
    if not plan.strategy.cluster.gpu.is_cpu:
        asked |= {"torch's CUDA": lambda facts: facts["cuda"], "NCCL": lambda facts: facts["nccl"]}
        needed += ("torch's CUDA",)
    for name, of in asked.items():
        values = {host: of(answer.facts) for host, answer in answers.items()}
        if name in needed and not any(values.values()):
            fix = f"install {name} in the launch's environment, in the version of constraints.txt"
            if name not in PACKAGES:
                fix = "install a torch build with CUDA (from PyTorch's package index)"
            for host in values:
                yield failed(
                    "SW511",
                    name,
                    "not installed" if name in PACKAGES else "torch is built without CUDA",
                    expected=f"{name} in the launch's environment",
                    fix=fix,
                    host=host,
                )
            continue
        fix = f"install the same {name} in the launch's environment on all hosts"
        yield from equal_everywhere("SW511", name, values, missing="none", fix=fix)


def _modules(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    """Beside PACKAGES, whose versions are compared."""
    for host, answer in answers.items():
        missing = _missing_modules(answer)
        if not missing:
            yield passed("modules", "all that ranks import", host=host)
            continue
        yield failed(
            "SW519",
            "modules",
            f"cannot find {', '.join(missing)}",
            expected="every module that ranks import, in the launch's environment",
            fix="run `pip install --constraint constraints.txt --editable .` with that environment's pip in "
            "the project folder on the host",
            host=host,
        )


def _missing_modules(answer: HostAnswer) -> list[str]:
    return [name for name in answer.facts["missing_modules"] if name not in PACKAGES]


def _code(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    values = {}
    for host, answer in answers.items():
        code = answer.facts["code"]
        values[host] = code["fingerprint"]
        is_told = any(f"'{name}'" in str(code["error"]) for name in _missing_modules(answer))
        if code["error"] is not None and not is_told:
            yield failed(
                "SW512",
                "code",
                f"cannot import the project: {code['error']}",
                expected="the same project and environment on all hosts",
                fix="install what is missing in the launch's environment on the host (pip install -e .)",
                host=host,
            )
    readable = {host: value for host, value in values.items() if value is not None}
    if readable:
        readable = {"this machine": code_fingerprint(), **readable}
        fix = "copy the same files to all hosts (another git revision, or a local change?)"
        yield from equal_everywhere("SW512", "code", readable, missing="none", fix=fix)


def _shared(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    folder = plan.strategy.output.folder
    expected = f"output.folder ({folder}) on a file system that all hosts share, with rename and fsync"
    for host, answer in answers.items():
        shared = answer.facts["shared"]
        if shared["nonce"] is None:
            found, fix = (
                "a file written here is not visible on the host",
                "mount the shared file system at the same path, or set output.folder to a shared one",
            )
        elif shared["error"] is not None:
            found, fix = f"cannot write: {shared['error']}", "free disk space, or correct the permissions"
        elif not answer.seen:
            found, fix = (
                "a file written on the host is not visible here",
                "mount the same file system on both, with caching that shows new files within seconds",
            )
        else:
            yield passed("shared path", "read, written, renamed", host=host)
            continue
        yield failed("SW513", "shared path", found, expected=expected, fix=fix, host=host)


def _disk(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    checkpoint = checkpoint_bytes(plan)
    kept = plan.strategy.output.keep_last + 1
    need = kept * checkpoint
    for host, answer in answers.items():
        disk = answer.facts["disk"]
        if disk["error"] is not None:
            yield unknown("disk", disk["error"], host=host)
            continue
        found = f"{format_bytes(disk['free_bytes'])} free"
        if disk["free_bytes"] >= need:
            yield passed("disk", found, host=host)
        else:
            yield failed(
                "SW514",
                "disk",
                f"{found} at {disk['path']}",
                expected=f"{format_bytes(need)}: {kept} checkpoints of {format_bytes(checkpoint)} "
                "(output.keep_last + the one being written)",
                fix="free disk space, lower output.keep_last, or set output.folder to another disk",
                host=host,
            )


def _shm(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    needs = {role.name: not plan.strategy.cluster.gpu.is_cpu and role.slots > 1 for role in roles}
    for host, answer in answers.items():
        total = answer.facts["shm"]["total_bytes"]
        if total is None:
            yield unknown("/dev/shm", answer.facts["shm"]["error"], host=host)
        elif total >= SHM_BYTES or not needs[host]:
            yield passed("/dev/shm", format_bytes(total), host=host)
        else:
            yield failed(
                "SW515",
                "/dev/shm",
                format_bytes(total),
                expected=f"{format_bytes(SHM_BYTES)}, for NCCL between the GPUs of a host",
                fix="enlarge it: docker run --shm-size=1g, or `mount -o remount,size=1g /dev/shm`",
                host=host,
            )


def files_needed(plan: Plan) -> int:
    """Open files of the rank that needs most, from the peers in its groups, including the world."""
    most = 0
    for stage in plan.stages:
        peers = plan.world_size - 1 + sum(size - 1 for size in stage.dense.sizes)
        if stage.expert is not None:
            peers += sum(size - 1 for size in stage.expert.sizes)
        most = max(most, peers)
    return _FILES_PER_PEER * most + _OTHER_FILES


def _open_files(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    need = files_needed(plan)
    for host, answer in answers.items():
        limits = answer.facts["open_files"]
        soft, hard = limits["soft"], limits["hard"]
        if soft is None or soft >= need:
            found = "unlimited" if soft is None else f"{soft:,}"
            yield passed("open files", found, host=host)
            continue
        is_low = hard is not None and hard < need
        yield failed(
            "SW516",
            "open files",
            f"{soft:,}" + (f", at most {hard:,}" if hard is not None and hard > soft else ""),
            expected=f"{need:,} for each rank: sockets to the peers in its groups",
            fix=f"raise nofile to {need:,} or more in /etc/security/limits.conf"
            + (", the hard limit too" if is_low else ""),
            host=host,
        )


def _interface(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    named = plan.strategy.launch.network_interface
    if named is None:
        return
    for host, answer in answers.items():
        there = answer.facts["interfaces"]
        missing = [name for name in named.split(",") if name not in there]
        if not missing:
            yield passed("network interface", named, host=host)
            continue
        yield failed(
            "SW517",
            "network interface",
            f"no interface {', '.join(missing)}",
            expected=f"one of: {', '.join(there)}",
            fix="correct launch.network_interface, or set it to null",
            host=host,
        )


def _clock(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[PreflightCheck]:
    for host, answer in answers.items():
        offset, uncertain = answer.clock.offset_s, answer.clock.uncertainty_s
        found = f"{offset:+.3f} s ± {uncertain:.3f}"
        if abs(offset) - uncertain <= MAX_SKEW_S:
            yield passed("clock", found, host=host)
        else:
            yield failed(
                "SW518",
                "clock",
                f"{found} from this machine",
                expected=f"within {MAX_SKEW_S:.0f} s",
                fix="synchronize the host's clock (chrony or ntp)",
                host=host,
            )


_RULES: tuple[Callable[[Plan, tuple[Role, ...], Answers], Iterator[PreflightCheck]], ...] = (
    _versions,
    _modules,
    _code,
    _shared,
    _disk,
    _shm,
    _open_files,
    _interface,
    _clock,
)
