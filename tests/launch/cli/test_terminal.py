"""Commands on a terminal of 80 columns: nothing is cut, and what people ask first comes first."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

import pytest

from launch.__main__ import main

ROOT = Path(__file__).parents[3]
REFERENCE = "ds_configs/ep64_tp2_staged.yaml"


def on_terminal(*arguments: str, columns: int = 80) -> list[str]:
    """The lines that a command prints on a terminal of that width, as `stty cols` sets it."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.chdir(ROOT)
        os.environ.update(TERM="xterm", NO_COLOR="1")
        os.environ.pop("COLUMNS", None)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "launch", *arguments])
    read = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        read += part
    os.waitpid(child, 0)
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read.decode())
    return text.replace("\r", "").splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", REFERENCE),
        ("plan", REFERENCE, "parallel=EP4_TP1_PP16_DP1", "parallel.placement=colocated"),
        ("plan", REFERENCE, "ds_configs/ep64_tp2.yaml"),
        ("search", REFERENCE, "model.num_hidden_layers=2"),
        ("audit", REFERENCE),
        ("fallback", REFERENCE),
        ("fallback", REFERENCE, "model.num_hidden_layers=2", "--lost-hosts", "8"),
    ],
    ids=lambda arguments: "-".join(arguments[:1]),
)
def test_no_figure_and_no_name_is_cut_at_80_columns(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = on_terminal(*arguments)
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    assert not {word for word in words if word.endswith("…") and len(word) > 1}
    main([*arguments, "--plain"])
    printed = capsys.readouterr().out
    left_out = [line for line in lines if line.strip().startswith("left out on this terminal: ")]
    figures = {word for word in printed.split() if re.fullmatch(r"[\d,.]+%?", word)}
    missing = {figure for figure in figures if figure not in words and f"({figure})" not in words}
    assert bool(left_out) or not missing, missing


def test_the_first_screen_has_what_people_ask_first() -> None:
    mtbf, cost = "cluster.mtbf=50000 h", "cluster.cost=2.5 $/GPU-hour"
    first = on_terminal("plan", REFERENCE, mtbf, cost, "training.steps=null", "training.tokens=1T")[:24]
    names = ["parameters", "FLOPs per token", "throughput", "compute rate", "memory", "run", "checkpoint"]
    starts = [line[:17].strip() for line in first]
    places = [starts.index(name) for name in (*names, "with failures", "best interval")]
    assert places == sorted(places)
    text = "\n".join(first)
    # 1T tokens are 7,629,395 steps of 131,072.
    for word in (
        "active",
        "forward",
        "causal",
        "MFU",
        "HFU",
        "per GPU",
        "7,629,395 steps",
        "GPU-hours",
        "$",
        "ETTR",
    ):
        assert word in text, word


def test_figures_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["plan", REFERENCE, "cluster.mtbf=50000 h", "cluster.cost=2.5 $/GPU-hour", "--json"]
    main(call)
    prediction = json.loads(capsys.readouterr().out)["prediction"]
    figures, run = prediction["figures"], prediction["run"]
    # the sums of tests/planner/live/test_parameters.py and of docs/how-to/audit.md
    assert figures["parameters"] == {"total": 4_372_595_712, "active": 144_737_280}
    assert figures["flops_per_token"]["training"] == 3 * figures["flops_per_token"]["forward"]
    assert figures["tokens_per_s_per_gpu"] == pytest.approx(figures["tokens_per_s"] / 68)
    assert run["cost"] == pytest.approx(2.5 * run["gpu_hours"])
    assert run["failures"]["mtbf_s"] == pytest.approx(50_000 * 3600 / 68)
    assert 0 < run["failures"]["effective_training_time_ratio"] < 1
    assert [one["change"] for one in prediction["sensitivity"]][:2] == [
        "links ½ as fast",
        "links 2 × as fast",
    ]
