"""A small legal strategy as text, and how tests vary it."""

from planner import Plan, Strategy, build_plan, loads

TEXT = """\
name: small
cluster:
  hosts: 16
  gpus_per_host: 8
  gpu: {memory: 64 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 400 TFLOPS}}
  links: {intra_host: 100 Gbps, inter_host: 100 Gbps}
model:
  num_hidden_layers: 16
  num_experts: 64
  hidden_size: 1024
  moe_intermediate_size: 2048
  num_attention_heads: 16
  vocab_size: 4096
training:
  seq_length: 1024
  global_batch: 128
  steps: 100
"""


def strategy(*overrides: str) -> Strategy:
    return loads(TEXT, overrides)


def plan(*overrides: str) -> Plan:
    return build_plan(strategy(*overrides))
