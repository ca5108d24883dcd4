"""Megatron-LM's options in a script or a file of arguments, read by --from."""

from pathlib import Path

import pytest

from planner import StrategyError, load
from planner.loading.option_text import read_options
from planner.loading.source_file import read_source
from tests.support.examples import TEXT

SCRIPT = r"""#!/bin/bash
# Trains with --num-layers 99
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
LR="2e-4"
DISTRIBUTED_ARGS=(--nproc_per_node $GPUS_PER_NODE --nnodes 4)
MODEL_ARGS=(
    --num-layers 8
    --hidden-size 512
    --ffn-hidden-size 768   # of each expert
    --num-attention-heads 8
    --num-experts 16
    --moe-router-topk 2
    --swiglu
)
DATA_ARGS=(
    --data-path 0.3 /data/a 0.7 /data/b
    --seq-length=256
)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \
    ${MODEL_ARGS[@]} \
    --micro-batch-size 1 --global-batch-size 64 \
    --lr $LR --train-iters "300" \
    --bf16
"""
KEYS = {
    "model.num_hidden_layers": 8,
    "model.hidden_size": 512,
    "model.moe_intermediate_size": 768,
    "model.num_experts": 16,
    "model.num_experts_per_tok": 2,
    "model.expert": "swiglu",
    "training.seq_length": 256,
    "training.global_batch": 64,
    "training.learning_rate": 2e-4,
    "training.steps": 300,
    "training.precision": "bf16",
    "cluster.gpus_per_host": 8,
}


def test_options_of_a_script_are_read_with_its_plain_variables() -> None:
    options = read_options(SCRIPT)
    assert options is not None
    held = {key: (entry.value, entry.line) for key, entry in options.entries.items()}
    assert held["num_layers"] == (8, 8), "not that of the comment"
    assert held["nproc_per_node"] == (8, 6)
    assert held["swiglu"] == (True, 14)
    assert held["data_path"] == ("0.3 /data/a 0.7 /data/b", 17)
    assert (held["seq_length"], held["lr"], held["bf16"]) == ((256, 18), (2e-4, 23), (True, 24))


def test_a_script_of_megatron_is_a_source_of_keys(tmp_path: Path) -> None:
    strategy, script = tmp_path / "s.yaml", tmp_path / "run.sh"
    strategy.write_text(TEXT, encoding="utf-8")
    script.write_text(SCRIPT, encoding="utf-8")
    found = load(strategy, model_from=str(script))
    for key, value in KEYS.items():
        section, _, name = key.partition(".")
        assert getattr(getattr(found, section), name) == value, key
    assert found.data.mix is not None
    assert [(part.path, part.weight) for part in found.data.mix] == [("/data/a", 0.3), ("/data/b", 0.7)]


@pytest.mark.parametrize(
    "text",
    [
        "A page.\n\nRun it with `train --fast --now --verbose`, or --help.\n",
        "for f in *; do ls --all --color --size $f; done\n",
        'print("--num-layers")\n',
    ],
)
def test_other_texts_with_options_are_no_source(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StrategyError) as caught:
        read_source(str(file))
    assert [problem.code for problem in caught.value.problems] == ["SW151"]
