"""The bench on hosts with a slow network: it runs, and compares the same training."""

import json
from pathlib import Path

import pytest

from benchmarks import shaped
from benchmarks.network import Network, NoNamespacesError


@pytest.mark.slow
def test_two_kinds_of_all_to_all_train_the_same(tmp_path: Path) -> None:
    try:
        Network(1, "100mbit").close()
    except NoNamespacesError as error:
        pytest.skip(f"network namespaces and tc: {error}")
    out = tmp_path / "found.json"
    arguments = ["--quick", "--rounds=2", "--rate=100mbit", "--set=runtime.all_to_all=hierarchical"]
    assert shaped.main([*arguments, f"--out={out}"]) == 0
    (found,) = json.loads(out.read_text())["found"]
    assert found["same_losses"]
    assert len(found["seconds"]["with"]) == len(found["seconds"]["without"]) == 2
    # Half of the ranks are on the other host, so that rows leave the first one either way.
    assert min(found["sent_bytes"].values()) > 10_000
