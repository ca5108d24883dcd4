"""Hosts by list, by hostfile, by number."""

import json
from pathlib import Path

import pytest

from planner import Problem, StrategyError, loads
from planner.strategy.host_names import own_names
from tests.support.examples import TEXT, strategy


def read(tmp_path: Path, content: bytes | str) -> tuple[Problem, ...]:
    path = tmp_path / "hostfile"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [f"cluster.hosts={{hostfile: {path}}}"])
    return error.value.problems


def test_number_makes_up_names() -> None:
    hosts = strategy("cluster.hosts=3").cluster.hosts
    assert hosts.names == ("host-00", "host-01", "host-02")
    assert hosts.are_made_up


def test_names_of_many_hosts_have_one_width() -> None:
    hosts = strategy("cluster.hosts=101").cluster.hosts
    assert (hosts.names[0], hosts.names[100]) == ("host-000", "host-100")


def test_one_is_localhost() -> None:
    hosts = strategy("cluster.hosts=1").cluster.hosts
    assert (hosts.names, hosts.are_made_up) == (("localhost",), False)


def test_list_may_carry_slots() -> None:
    cluster = strategy("cluster.hosts=[node-a slots=4, user@10.0.0.7, 'fe80::1']").cluster
    assert cluster.hosts.names == ("node-a", "user@10.0.0.7", "fe80::1")
    assert cluster.slots == (4, 8, 8)


@pytest.mark.parametrize(
    ("written", "names", "slots"),
    [
        ("node[01-03]", ("node01", "node02", "node03"), (8, 8, 8)),
        ("node[09-10,2],gpu-a", ("node09", "node10", "node2", "gpu-a"), (8,) * 4),
        ("['root@n[1-2].dc slots=4', b]", ("root@n1.dc", "root@n2.dc", "b"), (4, 4, 8)),
        ("['r[1-2]n[1-2]']", ("r1n1", "r1n2", "r2n1", "r2n2"), (8,) * 4),
    ],
)
def test_slurms_ranges_are_hosts_in_their_order(
    written: str, names: tuple[str, ...], slots: tuple[int, ...]
) -> None:
    loaded = strategy(f"cluster.hosts={written}")
    assert (loaded.cluster.hosts.names, loaded.cluster.slots) == (names, slots)
    assert not loaded.cluster.hosts.are_made_up


@pytest.mark.parametrize(
    ("written", "code", "fact"),
    [
        ("node[3-1]", "SW131", "node[3-1]"),
        ("['node[1-2]', node2]", "SW132", "'node2' is listed twice"),
        ("node[1-99999]", "SW133", "hosts"),
        ("['node[1-2] slots=0']", "SW133", "node1 has slots=0"),
    ],
)
def test_ranges_that_are_none_or_too_many_or_overlap_are_told(written: str, code: str, fact: str) -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [f"cluster.hosts={written}"])
    (problem,) = error.value.problems
    assert problem.code == code
    assert fact in problem.found


@pytest.mark.parametrize(
    "names",
    [
        *(("localhost", "127.0.0.1"), ("localhost", "::1"), ("127.0.0.1", "127.0.1.1"), ("::1", "0:0::1")),
        *(("localhost", "localhost.localdomain"), ("me", "localhost"), ("me.example.org", "bob@127.0.0.1")),
        *(("me", "ME.example.org"), ("fe80::1", "FE80:0::1")),
    ],
)
def test_names_of_one_machine_are_one_host(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "me.example.org")
    own_names.cache_clear()
    try:
        with pytest.raises(StrategyError) as caught:
            strategy(f"cluster.hosts={json.dumps(names)}")
        (problem,) = caught.value.problems
        assert problem.code == "SW132"
        assert names[0] in problem.fix
        (line,) = read(tmp_path, "".join(f"{name} slots=8\n" for name in names))
        assert (line.code, line.line) == ("SW132", 2)
    finally:
        own_names.cache_clear()


def test_names_of_other_machines_stay_apart() -> None:
    names = ("node1", "node1.a", "node1.b", "10.0.0.1", "::2")
    assert strategy(f"cluster.hosts={json.dumps(names)}").cluster.hosts.names == names


def test_hostfile_is_read_as_deepspeed_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("# all\n\nnode1 slots=8\n  node2\tslots=4  # half\r\n")
    loaded = strategy(f"cluster.hosts={{hostfile: {path}}}")
    assert loaded.cluster.hosts.names == ("node1", "node2")
    assert loaded.cluster.slots == (8, 4)


def test_every_bad_line_of_a_hostfile_is_a_problem(tmp_path: Path) -> None:
    text = "a slots=8\nb slots = 8\nA slots=8\nc\nd slots=0\ne slots=8x\nh:22 slots=8\nf slots=-1\n"
    problems = read(tmp_path, text)
    assert [(p.line, p.code) for p in problems] == [
        (2, "SW135"),
        (3, "SW132"),
        (4, "SW135"),
        (5, "SW133"),
        (6, "SW135"),
        (7, "SW131"),
        (8, "SW135"),
    ]
    assert all(p.file == str(tmp_path / "hostfile") for p in problems)


@pytest.mark.parametrize(
    ("content", "words"), [("", "names no host"), ("# x\n", "names no host"), (b"\xff", "not text")]
)
def test_hostfile_without_hosts_is_a_problem(tmp_path: Path, content: bytes | str, words: str) -> None:
    (problem,) = read(tmp_path, content)
    assert problem.code == "SW134"
    assert words in problem.found


def test_missing_hostfile_is_a_problem() -> None:
    with pytest.raises(StrategyError, match=r"hostfile: .*: SW134 .*no such file"):
        loads(TEXT, ["cluster.hosts={hostfile: /nowhere/hostfile}"])


def test_bare_text_is_not_taken_for_a_host() -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, ["cluster.hosts=node1"])
    assert error.value.problems[0].fix == "write 'cluster.hosts=[node1]'"


@pytest.mark.parametrize("path", ["/dev/zero", "none", "/", "x" * 5000])
def test_what_is_no_hostfile_is_one_short_problem_of_its_override(path: str) -> None:
    override = f"cluster.hosts={{hostfile: {path}}}"
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [override])
    (problem,) = error.value.problems
    assert problem.code == "SW134"
    assert (problem.override or "")[:20] == override[:20]
    assert len(str(problem)) < 700
    assert f"(relative paths start at {Path.cwd()})" in problem.fix


def test_hostfile_below_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("n1 slots=8\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/hosts", "$HOME/hosts", "${HOME}/hosts"):
        assert loads(TEXT, [f'cluster.hosts={{hostfile: "{path}"}}']).cluster.hosts.names == ("n1",)
    with pytest.raises(StrategyError) as error:
        loads(TEXT, ["cluster.hosts={hostfile: $NOT_SET/hosts}"])
    assert [problem.code for problem in error.value.problems] == ["SW117"]


def test_binary_hostfile_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_bytes(b"n1 slots=8\n\0\0\n" * 1000)
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [f"cluster.hosts={{hostfile: {tmp_path / 'hosts'}}}"])
    assert [(problem.code, "is not text" in problem.found) for problem in error.value.problems] == [
        ("SW134", True)
    ]
