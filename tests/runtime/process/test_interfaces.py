"""Interfaces that the ranks are told to use: one that is not there is named, with those that are."""

import socket

import pytest

from runtime.process.interfaces import interface_problems

HERE = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.2"], "ib0": ["10.1.0.2"], "ib1": []}


@pytest.mark.parametrize(
    ("is_gpu", "value", "missing"),
    [
        (False, "eth0", None),
        (False, "eth0,ib0", None),
        (False, "eth0,eth9", "there is no interface eth9"),
        (False, "eth", "there is no interface eth"),  # gloo reads names
        (False, "ib1", "the interface ib1 has no address"),
        (True, "eth", None),  # NCCL reads prefixes
        (True, "=eth", "there is no interface eth"),
        (True, "=eth0", None),
        (True, "ens,enp", "there is no interface ens,enp"),
        (True, "ens,ib", None),
        (True, "^lo", None),
        (True, "^lo,eth,ib", "there is no interface lo,eth,ib"),
    ],
)
def test_an_interface_that_is_not_there_is_named(is_gpu: bool, value: str, missing: str | None) -> None:
    name = "NCCL_SOCKET_IFNAME" if is_gpu else "GLOO_SOCKET_IFNAME"
    found = list(interface_problems({name: value}, is_gpu=is_gpu, master_addr="127.0.0.1", addresses=HERE))
    assert [problem.found for problem in found] == ([] if missing is None else [f"{name}={value}: {missing}"])
    for problem in found:
        assert (problem.code, problem.path) == ("SW618", "launch.network_interface")
        assert problem.expected == "one of: eth0, ib0, lo"


def test_the_other_librarys_variable_does_not_matter() -> None:
    given = {"NCCL_SOCKET_IFNAME": "eth9"}
    assert not list(interface_problems(given, is_gpu=False, master_addr="", addresses=HERE))


def test_the_fix_names_the_interface_to_rank_0_and_works() -> None:
    """On this machine, by its own loopback."""
    names = [name for _, name in socket.if_nameindex()]
    given = {"GLOO_SOCKET_IFNAME": "no-such"}
    problem = next(interface_problems(given, is_gpu=False, master_addr="127.0.0.1"))
    assert "lo" in names
    assert "set launch.network_interface to lo (or export GLOO_SOCKET_IFNAME=lo)" in problem.fix
    assert not list(interface_problems({"GLOO_SOCKET_IFNAME": "lo"}, is_gpu=False, master_addr="127.0.0.1"))
