"""`--from` of accelerate's configurations, and their keys in a strategy: each is told what it becomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from planner import loads
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# As `accelerate config` writes them.
DEEPSPEED = """\
compute_environment: LOCAL_MACHINE
debug: false
deepspeed_config:
  gradient_accumulation_steps: 2
  gradient_clipping: 0.5
  offload_optimizer_device: none
  offload_param_device: cpu
  zero3_init_flag: false
  zero_stage: 3
  deepspeed_multinode_launcher: pdsh
distributed_type: DEEPSPEED
downcast_bf16: 'no'
gpu_ids: all
machine_rank: 0
main_process_ip: 10.0.0.1
main_process_port: 29500
main_training_function: main
mixed_precision: bf16
num_machines: 2
num_processes: 16
rdzv_backend: static
same_network: true
tpu_env: []
use_cpu: false
"""
FSDP = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_sharding_strategy: SHARD_GRAD_OP, fsdp_offload_params: true, fsdp_state_dict_type: FULL}
mixed_precision: fp16
num_machines: 1
num_processes: 8
machine_rank: 0
"""
MEGATRON = """\
compute_environment: LOCAL_MACHINE
distributed_type: MEGATRON_LM
megatron_lm_config:
  megatron_lm_gradient_clipping: 0.5
  megatron_lm_pp_degree: 2
  megatron_lm_recompute_activations: true
  megatron_lm_sequence_parallelism: true
  megatron_lm_tp_degree: 4
  megatron_lm_use_distributed_optimizer: true
num_machines: 1
num_processes: 8
"""


def ask(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    path = folder / "default_config.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["plan", "--from", str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["program"] == "an accelerate configuration"
    return found


def test_a_configuration_with_deepspeed_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(tmp_path, DEEPSPEED, capsys)
    assert found["strategy"] == {
        "training": {"gradient_clipping": 0.5, "precision": "bf16"},
        "parallel": {"zero_stage": 2},  # 3 is not supported with experts
        "launch": {"launcher": "deepspeed"},
        "cluster": {"hosts": 2, "gpus_per_host": 8},  # 16 processes on 2 machines
    }
    left_out = found["left_out"]
    assert "offloading is not supported" in left_out["deepspeed_config.offload_param_device"]
    assert "ZeRO 3 is not supported" in left_out["deepspeed_config.zero_stage"]
    assert "first of cluster.hosts" in left_out["main_process_ip"]
    assert "place in cluster.hosts" in left_out["machine_rank"]
    assert not any("has no key" in why for why in left_out.values())


def test_what_fsdp_shards_becomes_a_stage_of_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(tmp_path, FSDP, capsys)
    assert found["strategy"] == {
        "parallel": {"zero_stage": 2},
        "cluster": {"hosts": 1, "gpus_per_host": 8},
    }
    assert "offloading is not supported" in found["left_out"]["fsdp_config"]
    assert "fp16" in found["left_out"]["mixed_precision"]


def test_keys_with_the_prefix_of_their_section_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(tmp_path, MEGATRON, capsys)
    assert found["strategy"] == {
        "training": {"gradient_clipping": 0.5},
        "parallel": {"pp": 2, "tp": 4, "zero_stage": 1},
        "runtime": {"recompute": "layer"},
        "cluster": {"hosts": 1, "gpus_per_host": 8},
    }
    refused = found["left_out"]["megatron_lm_config.megatron_lm_sequence_parallelism"]
    assert "sequence and context parallelism are not supported" in refused


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("num_processes=64", ["cluster.gpus_per_host=4"]),  # on 16 hosts
        ("num_machines=8", ["cluster.hosts=8"]),
        ("gpu_memory=40 GB", ["limits.memory_max=40 GB"]),
        ("gpu_memory_utilization=0.5", ["limits.memory_max=32 GB"]),  # of 64 GB
        ("fsdp_config={fsdp_sharding_strategy: FULL_SHARD}", ["parallel.zero_stage=2"]),
        ("deepspeed_config.zero_stage=1", ["parallel.zero_stage=1"]),
        *((f"{key}={value}", []) for key, value in (("machine_rank", 1), ("main_process_ip", "10.0.0.1"))),
        *((f"{key}={value}", []) for key, value in (("main_process_port", 29500), ("use_cpu", "false"))),
    ],
)
def test_a_key_in_a_strategy_becomes_what_it_means(key: str, meant: list[str]) -> None:
    assert settle(Written.of(TEXT, key)) == loads(TEXT, meant)
