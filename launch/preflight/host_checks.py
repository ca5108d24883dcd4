"""What a host must be like: each rule compares its facts with the strategy or with those of other hosts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from launch.preflight.ask_hosts import Answer
from launch.preflight.check import Check, Role, equal_everywhere
from launch.preflight.gpu_checks import gpu_checks
from launch.remote.host_inspector import PACKAGES
from launch.ssh.failures import Failure
from planner import Plan
from planner.counts.parameters import model_parameters
from planner.plan.code_fingerprint import code_fingerprint
from planner.prediction.limits import STATE_BYTES
from planner.units import format_bytes

MAX_SKEW_S = 1.0
# Sockets of a rank: one to each peer of each of its groups, and DeepSpeed makes groups of its own over the
# same ranks. Measured with gloo: 420 descriptors at 128 ranks, whose groups have 254 peers.
_FILES_A_PEER, _FILES_BESIDE = 2, 128
# NVIDIA's NCCL user guide (troubleshooting, shared memory) asks for it in containers, whose default is 64 MB.
SHM_BYTES = 10**9

Answers = Mapping[str, Answer]


def host_checks(
    plan: Plan, roles: tuple[Role, ...], answers: Mapping[str, Answer | Failure]
) -> tuple[Check, ...]:
    """Every check of every host, in the order of a table: by rule, then by host."""
    reached = {host: answer for host, answer in answers.items() if isinstance(answer, Answer)}
    checks = list(_reachable(answers))
    if reached:
        for rule in _RULES:
            checks += rule(plan, roles, reached)
        if not plan.strategy.cluster.gpu.is_cpu:
            checks += gpu_checks(plan, roles, {host: answer.facts for host, answer in reached.items()})
    return tuple(checks)


def _reachable(answers: Mapping[str, Answer | Failure]) -> Iterator[Check]:
    for host, answer in answers.items():
        if isinstance(answer, Answer):
            yield Check(name="answers", host=host, verdict="passes", found=answer.facts["hostname"])
        else:
            yield Check(
                name="answers",
                host=host,
                verdict="fails",
                found=answer.found,
                expected=answer.expected,
                fix=answer.fix,
            )


def _versions(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
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
            fix = f"install {name} into the launch's environment, as constraints.txt pins it"
            if name not in PACKAGES:
                fix = "install a build of torch with CUDA (pip takes it from PyTorch's index)"
            for host in values:
                yield Check(
                    name=name,
                    host=host,
                    verdict="fails",
                    found="not installed" if name in PACKAGES else "this torch is built without it",
                    expected=f"{name} in the launch's environment",
                    fix=fix,
                )
            continue
        fix = f"install the same {name} in the launch's environment on all hosts"
        yield from equal_everywhere(name, values, missing="none", fix=fix)


def _code(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    values = {}
    for host, answer in answers.items():
        code = answer.facts["code"]
        values[host] = code["fingerprint"]
        if code["error"] is not None:
            yield Check(
                name="code",
                host=host,
                verdict="fails",
                found=f"the project cannot be read: {code['error']}",
                expected="the project and its environment, the same on all hosts",
                fix="install what is missing (pip install -e .) in the launch's environment there",
            )
    readable = {host: value for host, value in values.items() if value is not None}
    if readable:
        readable = {"this machine": code_fingerprint(), **readable}
        fix = "bring the same files to all hosts: another git revision, or a change that was not saved there"
        yield from equal_everywhere("code", readable, missing="none", fix=fix)


def _shared(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    folder = plan.strategy.output.folder
    expected = f"output.folder ({folder}) is one path that all hosts share, with rename and fsync"
    for host, answer in answers.items():
        shared = answer.facts["shared"]
        if shared["nonce"] is None:
            found, fix = (
                "a file written by this machine is not seen there",
                "mount the shared file system there at the same path, or set output.folder to one that is",
            )
        elif shared["error"] is not None:
            found, fix = f"cannot write there: {shared['error']}", "free the disk or correct the permissions"
        elif not answer.seen:
            found, fix = (
                "a file written there is not seen by this machine",
                "mount the same file system on both, without caching that hides new files for seconds",
            )
        else:
            yield Check(name="shared path", host=host, verdict="passes", found="read, written, renamed")
            continue
        yield Check(name="shared path", host=host, verdict="fails", found=found, expected=expected, fix=fix)


def _disk(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    checkpoint = STATE_BYTES * model_parameters(plan.strategy.model).total
    kept = plan.strategy.output.keep_last + 1
    need = kept * checkpoint
    for host, answer in answers.items():
        disk = answer.facts["disk"]
        if disk["error"] is not None:
            yield Check(name="disk", host=host, verdict="unknown", found=disk["error"])
            continue
        found = f"{format_bytes(disk['free_bytes'])} free"
        if disk["free_bytes"] >= need:
            yield Check(name="disk", host=host, verdict="passes", found=found)
        else:
            yield Check(
                name="disk",
                host=host,
                verdict="fails",
                found=f"{found} at {disk['path']}",
                expected=f"{format_bytes(need)}: {kept} checkpoints of {format_bytes(checkpoint)} "
                "(output.keep_last + the one being written)",
                fix="free the disk, lower output.keep_last, or set output.folder to another one",
            )


def _shm(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    needs = {role.name: not plan.strategy.cluster.gpu.is_cpu and role.slots > 1 for role in roles}
    for host, answer in answers.items():
        total = answer.facts["shm"]["total_bytes"]
        if total is None:
            yield Check(name="/dev/shm", host=host, verdict="unknown", found=answer.facts["shm"]["error"])
        elif total >= SHM_BYTES or not needs[host]:
            yield Check(name="/dev/shm", host=host, verdict="passes", found=format_bytes(total))
        else:
            yield Check(
                name="/dev/shm",
                host=host,
                verdict="fails",
                found=format_bytes(total),
                expected=f"{format_bytes(SHM_BYTES)}, for NCCL between GPUs of a host",
                fix="mount it larger: docker run --shm-size=1g, or `mount -o remount,size=1g /dev/shm`",
            )


def files_needed(plan: Plan) -> int:
    """Open files of the rank that needs most: from the peers in its groups, the world included."""
    most = 0
    for stage in plan.stages:
        peers = plan.world_size - 1 + sum(size - 1 for size in stage.dense.sizes)
        if stage.expert is not None:
            peers += sum(size - 1 for size in stage.expert.sizes)
        most = max(most, peers)
    return _FILES_A_PEER * most + _FILES_BESIDE


def _open_files(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    need = files_needed(plan)
    for host, answer in answers.items():
        limits = answer.facts["open_files"]
        soft, hard = limits["soft"], limits["hard"]
        if soft is None or soft >= need:
            found = "unlimited" if soft is None else f"{soft:,}"
            yield Check(name="open files", host=host, verdict="passes", found=found)
            continue
        is_low = hard is not None and hard < need
        yield Check(
            name="open files",
            host=host,
            verdict="fails",
            found=f"{soft:,}" + (f", at most {hard:,}" if hard is not None and hard > soft else ""),
            expected=f"{need:,} a rank, for sockets to the peers in its groups",
            fix=f"raise nofile to {need:,} or more in /etc/security/limits.conf"
            + (", the hard limit too" if is_low else ""),
        )


def _interface(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    named = plan.strategy.launch.network_interface
    if named is None:
        return
    for host, answer in answers.items():
        there = answer.facts["interfaces"]
        missing = [name for name in named.split(",") if name not in there]
        if not missing:
            yield Check(name="network interface", host=host, verdict="passes", found=named)
            continue
        yield Check(
            name="network interface",
            host=host,
            verdict="fails",
            found=f"there is no {' and no '.join(missing)}",
            expected=f"one of: {', '.join(there)}",
            fix="correct launch.network_interface, or set it to null",
        )


def _clock(plan: Plan, roles: tuple[Role, ...], answers: Answers) -> Iterator[Check]:
    for host, answer in answers.items():
        offset, uncertain = answer.clock.offset_s, answer.clock.uncertainty_s
        found = f"{offset:+.3f} s ± {uncertain:.3f}"
        if abs(offset) - uncertain <= MAX_SKEW_S:
            yield Check(name="clock", host=host, verdict="passes", found=found)
        else:
            yield Check(
                name="clock",
                host=host,
                verdict="fails",
                found=f"{found} against this machine",
                expected=f"within {MAX_SKEW_S:.0f} s",
                fix="set the clock there, by chrony or ntp",
            )


_RULES: tuple[Callable[[Plan, tuple[Role, ...], Answers], Iterator[Check]], ...] = (
    _versions,
    _code,
    _shared,
    _disk,
    _shm,
    _open_files,
    _interface,
    _clock,
)
