"""The hosts that launch tests share: one sshd for the whole session."""

from collections.abc import Iterator

import pytest

from tests.launch.hosts import LoopbackHosts, start_or_skip


@pytest.fixture(scope="session")
def _hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHosts]:
    loopback = LoopbackHosts(tmp_path_factory.mktemp("hosts"))
    start_or_skip(loopback)
    yield loopback
    loopback.stop()


@pytest.fixture
def hosts(_hosts: LoopbackHosts) -> Iterator[LoopbackHosts]:
    """node1 … node9 over real ssh, each as plain as the other."""
    yield _hosts
    _hosts.clear_hooks()
