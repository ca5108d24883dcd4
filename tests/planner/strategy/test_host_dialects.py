"""Hostfiles and host lists of other launchers: the fix keeps their names and numbers."""

from pathlib import Path

import pytest

from tests.support.examples import TEXT
from tests.support.fixes import Written, apply_fix, settle

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
    # Open MPI rankfiles
    "rank 0=node1 slot=0\nrank 1=node1 slot=1\nrank 2=node2 slot=0\n": [("node1", 2), ("node2", 1)],
    # LSF
    "hostA hostA hostB\n": [("hostA", 2), ("hostB", 1)],
    "hostA 4 hostB 2\n": [("hostA", 4), ("hostB", 2)],
    'LSB_HOSTS="n1 n1 n2 n2 n2"\n': [("n1", 2), ("n2", 3)],
    "host 4\nother 2\n": [("host", 4), ("other", 2)],
    # SGE
    "node1 8 all.q@node1 UNDEFINED\nnode2 4 gpu.q@node2 0,0:0,1\n": [("node1", 8), ("node2", 4)],
    # /etc/hosts
    "127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\n10.0.0.1 node01 node01.local\n": [("node01", 8)],
    # ssh, Ansible
    "Host n0\n  HostName 10.0.0.1\n  User bob\n": [("n0", 8)],
    "n1 ansible_host=10.0.0.2 ansible_user=bob slots=4\n": [("bob@10.0.0.2", 4)],
    "bob@n1:2222 slots=2\nn2 user=bob slots=3\n": [("bob@n1", 2), ("bob@n2", 3)],
    # several hosts in a line
    "n0 slots=4; n1 slots=2\n": [("n0", 4), ("n1", 2)],
    "n0;n1\n": [("n0", 8), ("n1", 8)],
    "n0 slots=4, n1 slots=2\n": [("n0", 4), ("n1", 2)],
    "n0:4,n1:2\n": [("n0", 4), ("n1", 2)],
    "SLURM_JOB_NODELIST=a[08-17]\n": [(f"a{i:02d}", 8) for i in range(8, 18)],
    '["n0", "n1"]\n': [("n0", 8), ("n1", 8)],
    '{"n0": 4, "n1": 2}\n': [("n0", 4), ("n1", 2)],
    # numbers
    "n0 slots=1e3\nn1 slots=8.0\nn2 slots=+4\n": [("n0", 1000), ("n1", 8), ("n2", 4)],
    "n0,4\nn1,2\n": [("n0", 4), ("n1", 2)],
    "host,slots\nn0 8 GPUs\n": [("n0", 8)],
    # IPv6
    "[fe80::1] slots=4\n[fe80::2]:2\n[fe80::3]:22 slots=4\n": [
        ("fe80::1", 4),
        ("fe80::2", 2),
        ("fe80::3", 4),
    ],
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
        ("['node{01..02}']", ("node01", "node02"), (None, None)),
        ("node[01-02]:4", ("node01", "node02"), (4, 4)),
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


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("n0 slots=eight", "'eight' is not a number"),
        ("n0 slots=4.5", "'4.5' is not a number"),
        ("n0 slots=-1", "'-1' is not a number"),
        ("n0 slots=8GB", "'8GB' is not a number"),
        ("n0 slots=2000 # many", "2000 is more than 1024 slots"),
        ("n0 np=4 gpus=8", "it has 4 and 8"),
        ("n0 4 8", "it has 4 and 8"),
        ("n0 slots=4 ; four", "not every host in it has a number"),
        ("n0:443", "443 may be a port or a number of slots"),
        ("n0:4 slots=2", "it has 4 and 2"),
        ("n0 slots=8 n0 slots=8", "n0 is in it twice"),
        ("n0 n1:2", "not every host in it has a number"),
        ("node[01-", "'node[01-' is not a host name"),
        ("node[4-1]", "'4-1' is not a range"),
        ("the hosts of this job", "its words may be something else than names of hosts"),
        ("rank 0=+n0 slot=0", "+n0 is a host of a scheduler's list"),
        ("n[1-2] 8(x2)", "8(x2) may be of other hosts too"),
        ("n0 slots=4 fast", "not every host in it has a number"),
        ("n0:4 binding=user", "'binding=user' is not known"),
    ],
)
def test_a_line_that_may_mean_two_things_is_not_guessed(tmp_path: Path, line: str, why: str) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text(f"ok slots=8\n{line}\n")
    (problem,) = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}").problems()
    assert problem.line == 2
    if line.startswith("n0 slots=2000"):
        assert problem.fix == "write `n0 slots=N` with its number of GPUs, or remove this line"
        return
    assert problem.found.endswith(why)
    assert problem.fix.startswith("write a line `name slots=N` for each host")


def test_what_a_line_means_beyond_its_hosts_is_said(tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text(
        "n0:2222\n2001:db8::1:4\nrank 0=a slot=0\nrank 1=b slot=0\nrank 2=a slot=1\nn4:4 ifname=ib0\n"
    )
    problems = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}").problems()
    assert [problem.fix for problem in problems] == [
        "write n0 slots=8 and set Port 2222 in the ssh configuration",
        "write 2001:db8::1:4 slots=8 (or 2001:db8::1 slots=4, if :4 is its number)",
        "write a slots=2 (ranks are numbered host by host then, not as here)",
        "write b slots=1 (ranks are numbered host by host then, not as here)",
        "remove this line: rank 2 is counted in line 3",
        "write n4 slots=4 (its interface belongs in launch.env: NCCL_SOCKET_IFNAME: ib0)",
    ]
    (problem,) = Written.of(TEXT, "cluster.hosts=['n0:2222']").problems()
    assert problem.fix == "write 'cluster.hosts=[n0]' and set Port 2222 in the ssh configuration"


def test_many_lines_are_a_command_that_prints_them(tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("node[01-12,15],gpu[1-2]:4\nrack[08-20] slots=2\n")
    problems = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}").problems()
    assert problems[1].fix == ("write 13 lines: those that this prints: printf '%s slots=2\\n' rack{08..20}")


def test_a_fault_of_a_hostfile_keeps_its_line_under_an_override(tmp_path: Path) -> None:
    """The file alone has its hosts right, and an override names another hostfile."""
    for name, text in {"right": "n0 slots=8\n", "wrong": "n0 slots=8\nn1 4\n"}.items():
        (tmp_path / name).write_text(text)
    written = Written.of(TEXT)
    written.data["cluster"]["hosts"] = {"hostfile": str(tmp_path / "right")}
    written = Written(written.data, (f"cluster.hosts.hostfile={tmp_path / 'wrong'}",))
    (problem,) = (problem for problem in written.problems() if problem.code == "SW135")
    assert str(problem).startswith(f"{tmp_path / 'wrong'}:2: SW135 cluster.hosts: cannot parse 'n1 4'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“n1” slots=8\n", ("n1",)),
        ("\"n1\" slots=8\n'n2' 8\n", ("n1", "n2")),
        ("n1: 8\nn2: 8\n", ("n1", "n2")),
        ('[\n  "n1",\n  "n2"\n]\n', ("n1", "n2")),
        ("; gpus\n* n1 slots=8\n", ("n1",)),
    ],
)
def test_quotes_brackets_and_marks_are_not_part_of_a_name(
    tmp_path: Path, text: str, expected: tuple[str, ...]
) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text(text, encoding="utf-8")
    written = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}", hostfile=hostfile)
    for problem in written.problems():
        apply_fix(written, problem)
    hosts = written.load().cluster
    assert (hosts.hosts.names, set(hosts.slots)) == (expected, {8})


def test_a_decimal_comma_is_not_a_list_of_devices(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("n1 slots=8,0\n")
    (problem,) = Written.of(TEXT, f"cluster.hosts={{hostfile: {path}}}").problems()
    assert "may be a number or a list of devices" in problem.found
