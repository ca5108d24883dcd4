"""Mistakes of people's files: other quotes, spaces, decimal marks, comments, forms of lists and mappings."""

import pytest

from planner import Problem, StrategyError, loads
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle


def problem_of(text: str) -> Problem:
    with pytest.raises(StrategyError) as caught:
        loads(text, file="f.yaml")
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  steps: “100”", "  steps: 100"),
        ("  steps: 100\u200b", "  steps: 100"),
        ("  steps: 100 // half", "  steps: 100"),
        ("  steps: 1.024", "  steps: 1024"),  # 1,024 in German
        ("  steps: 100\nparallel: ‘EP4’", "  steps: 100\nparallel: EP4"),
        (
            "  steps: 100\nlaunch: {environment: [A=1, B=x]}",
            "  steps: 100\nlaunch: {environment: {A: '1', B: x}}",
        ),
        ("  steps: 100\nlaunch: {environment: A=1}", "  steps: 100\nlaunch: {environment: {A: '1'}}"),
        ("  steps: 100\nlaunch: {slurm: --partition=gpu}", "  steps: 100\nlaunch: {slurm: {partition: gpu}}"),
        (
            "  steps: 100\nlaunch: {prologue: module load x}",
            "  steps: 100\nlaunch: {prologue: [module load x]}",
        ),
        (
            "  steps: 100\nclaims: {expert_latency: 3 ms}",
            "  steps: 100\nclaims: [{quantity: expert_latency, value: 3 ms, where: strategy}]",
        ),
    ],
)
def test_the_fix_keeps_what_was_written(line: str, expected: str) -> None:
    text = TEXT.replace("  steps: 100", line)
    assert settle(Written.of(text)) == loads(TEXT.replace("  steps: 100", expected))


def test_hosts_as_mappings_are_hosts_with_slots() -> None:
    text = TEXT.replace("hosts: 16", "hosts: [{name: n1, slots: 8}, {host: n2, gpus: 4}]")
    assert settle(Written.of(text)) == loads(TEXT, ["cluster.hosts=[n1 slots=8, n2 slots=4]"])


def test_a_gpu_by_another_key_is_one_mistake() -> None:
    gpu = "gpu: {memory: 64 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 400 TFLOPS}}"
    text = TEXT.replace(gpu, "gpu: {type: H100}")
    assert problem_of(text).fix == "write name: H100 instead of type: H100"
    assert settle(Written.of(text)) == loads(TEXT, ["cluster.gpu=H100"])


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("  steps:100", "write steps: 100, with a space behind the colon"),
        ("  steps = 100", "write steps: 100"),
        ("  steps:\u00a0100", "write ordinary spaces: this line has others, which look the same"),
        ("\tsteps: 100", "indent with spaces in place of tabs (expand -t 2 FILE prints the file so)"),
        ("  // how long\n  steps: 100", "begin a comment with #"),
    ],
)
def test_a_mistake_of_form_is_told_at_its_line(line: str, fix: str) -> None:
    problem = problem_of(TEXT.replace("  steps: 100", line))
    assert (problem.code, problem.line, problem.fix) == ("SW102", 17, fix)


@pytest.mark.parametrize("key", ["base", "x-common", "training2"])
def test_a_key_that_holds_an_anchor_is_not_just_removed(key: str) -> None:
    shared = "seq_length: 1024, global_batch: 128"
    text = f"{key}: &b {{{shared}}}\n" + TEXT.replace(
        "  seq_length: 1024\n  global_batch: 128\n", "  <<: *b\n"
    )
    assert problem_of(text).fix == f"write &b and its value at the first *b, and leave {key} out then"
