"""Hostfiles and host lists of other launchers: the fix keeps their names and numbers."""

from pathlib import Path

import pytest

from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# A hostfile as it is found -> hosts and slots after every fix. gpus_per_host is 8.
FILES = {
    # Open MPI
    "n0 slots=4 max_slots=4\nn1 slots=4 max-slots=4\n": [("n0", 4), ("n1", 4)],
    "n0 slots=0,1,2,3\nn1 slots=4-7\n": [("n0", 4), ("n1", 4)],
    "n0 max_slots=2\n": [("n0", 2)],
    # Slurm and shells
    "node[01-04] slots=8\n": [("node01", 8), ("node02", 8), ("node03", 8), ("node04", 8)],
    "node[1,3-4] slots=2\n": [("node1", 2), ("node3", 2), ("node4", 2)],
    "gpu{1..3} slots=4\n": [("gpu1", 4), ("gpu2", 4), ("gpu3", 4)],
    "node[001-020] slots=8\n": [(f"node{i:03d}", 8) for i in range(1, 21)],
    # MPICH, Intel MPI
    "n0:4\nn1:2\n": [("n0", 4), ("n1", 2)],
    "n0*4\n": [("n0", 4)],
    # names alone
    "gpu-a\ngpu-b\ngpu-c\n": [("gpu-a", 8), ("gpu-b", 8), ("gpu-c", 8)],
    "n0, n1\n": [("n0", 8), ("n1", 8)],
    # PBS: a line for each slot
    "n0\nn0\nn0\nn1\nn1\nn1\n": [("n0", 3), ("n1", 3)],
    # and the rest
    "n0 4\n": [("n0", 4)],
    "n0 slots = 4 # first\n": [("n0", 4)],
    "n0 gpus=2\n": [("n0", 2)],
    "root@n0:22 slots=4\n": [("root@n0", 4)],
    "[workers]\nn0 slots=4\n": [("n0", 4)],
    "- n0 slots=4\n": [("n0", 4)],
    "n0 slots=4\nn1 slots=0\n": [("n0", 4)],
    "n0 slots=4\nN0 slots=4\n": [("n0", 4)],
    "knöten slots=4\n": [("xn--knten-kua", 4)],
}


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.partition("\n")[0])
def test_every_line_of_another_dialect_is_told_what_it_is_here(tmp_path: Path, text: str) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text(text, encoding="utf-8")
    written = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}", hostfile=hostfile)
    assert written.problems(), "it is not DeepSpeed's syntax"
    hosts = settle(written).cluster.hosts
    assert sorted(zip(hosts.names, hosts.slots, strict=True)) == sorted(FILES[text])


@pytest.mark.parametrize(
    ("value", "names", "slots"),
    [
        ("[n0:4, n1:4]", ("n0", "n1"), (4, 4)),
        ("['node[01-02]']", ("node01", "node02"), (None, None)),
        ("node[01-02]", ("node01", "node02"), (None, None)),
        ("n0,n1", ("n0", "n1"), (None, None)),
        ("n0", ("n0",), (None,)),
        ("[n0 slots=4 max_slots=4]", ("n0",), (4,)),
        ("[n0, n0]", ("n0",), (None,)),
        ("[n0 slots=0, n1]", ("n1",), (None,)),
        ("{n0: 4, n1: 2}", ("n0", "n1"), (4, 2)),
        ("{names: [n0, n1]}", ("n0", "n1"), (None, None)),
        ("'4'", ("host-00", "host-01", "host-02", "host-03"), (None,) * 4),
    ],
)
def test_a_list_of_another_form_is_told_what_it_is_here(
    value: str, names: tuple[str, ...], slots: tuple[int | None, ...]
) -> None:
    written = Written.of(TEXT, f"cluster.hosts={value}")
    assert written.problems()
    hosts = settle(written).cluster.hosts
    assert (hosts.names, hosts.slots) == (names, slots)


def test_a_choice_of_devices_is_said_to_be_lost(tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("n1 slots=4-7\n")
    (problem,) = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}").problems()
    assert problem.fix == "write n1 slots=4 (its ranks use devices 0 to 3, not 4-7)"


def test_a_path_is_told_to_be_a_hostfile() -> None:
    (problem,) = Written.of(TEXT, "cluster.hosts=/job/hostfile").problems()
    assert problem.fix == "write 'cluster.hosts={hostfile: /job/hostfile}'"


def test_a_file_that_is_no_hostfile_is_judged_at_once(tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("!" * 3000 + "\n" + "?\n" * 100_000)
    problems = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}").problems()
    assert len(problems) == 100
