"""DeepSpeed configuration of a plan; the only file that spells DeepSpeed's keys.

Every value that matters is written, so that none of DeepSpeed 0.19.8's defaults applies (its default clipping
is 1.0, runtime/constants.py:203). One dict serves the ranks of every stage: it has train_batch_size and
accumulation and never train_micro_batch_size_per_gpu, because DeepSpeed's world is each stage's own
data-parallel size.
"""

from typing import Any

from planner.plan.plan import Plan
from planner.topology.deepspeed_zero import deepspeed_zero_stage
from planner.topology.grid import share

# Elements of a gather bucket, and the fewest of a reduction bucket. DeepSpeed's own default, 5·10⁸, is 1 GB
# of bf16 a bucket; 5·10⁷ is 100 MB, long enough to fill a 100 Gbps link (8 ms) and short beside the memory of
# any GPU.
BUCKET_ELEMENTS = 50_000_000
_NEVER = 10**9  # steps: metrics are printed by runtime.telemetry, not by DeepSpeed


def ds_config(plan: Plan) -> dict[str, Any]:
    """The configuration for every rank of a plan."""
    training = plan.strategy.training
    is_bf16 = training.precision != "fp32"  # fp8 training holds bf16 weights
    return {
        "train_batch_size": plan.batch.global_batch,
        "gradient_accumulation_steps": plan.batch.accumulation,
        "managed_gradient_accumulation": True,
        "gradient_clipping": training.gradient_clipping,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.learning_rate,
                "betas": list(training.optimizer.betas),
                "eps": training.optimizer.eps,
                "weight_decay": training.optimizer.weight_decay,
                # torch.optim.AdamW(fused=True): DeepSpeed's own FusedAdam needs a compiler at run time.
                "torch_adam": True,
                # On a CPU its step is that of runtime/training/aligned_adamw.py.
                "fused": True,
            },
            "legacy_fusion": False,
        },
        "zero_optimization": _zero(plan),
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {
            "enabled": is_bf16,
            "immediate_grad_update": False,
            "check_grad_overflow": True,
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "fp16": {"enabled": False},
        "data_types": {"grad_accum_dtype": gradient_dtype(plan)},
        "communication_data_type": "bf16" if is_bf16 else "fp32",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        # Losses are divided by counts of the global batch, so gradients are summed, not averaged.
        "gradient_allreduce_op": "sum",
        "disable_allgather": False,
        "use_data_before_expert_parallelism": False,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "flops_profiler": {"enabled": False},
        "tensorboard": {"enabled": False},
        "wandb": {"enabled": False},
        "csv_monitor": {"enabled": False},
        "switchyard": {"fingerprint": plan.fingerprint},
    }


def bucket_elements(plan: Plan) -> int:
    """Elements of the reduction bucket: no fewer than the largest tensor of any rank has.

    DeepSpeed 0.19.8 keeps a gradient that is larger than the bucket in a tensor of its own until the end of
    backward (zero/stage_1_and_2.py:1449): of a model of many layers, one for each.
    """
    model, parallel = plan.strategy.model, plan.strategy.parallel
    tp = 1 if parallel.placement == "staged" else parallel.tp  # of the layers
    widths = [
        share(model.vocab_size, parallel.tp, 0),
        share(model.num_attention_heads, tp, 0) * model.head_dim,
        share(model.num_shared_experts * model.moe_intermediate_size, tp, 0),
    ]
    if model.aggregation == "linear":
        widths.append(share(model.hidden_size, parallel.tp, 0))
    if model.first_dense_layers:
        widths.append(share(model.intermediate_size or 0, tp, 0))
    if model.num_moe_layers:
        inner = model.moe_intermediate_size * (2 if model.expert == "swiglu" else 1)
        widths += [model.num_experts, model.num_experts // parallel.ep * inner]
    return max(BUCKET_ELEMENTS, model.hidden_size * max(widths))


def zero_stage(plan: Plan) -> int:
    """The ZeRO stage configured in DeepSpeed."""
    return deepspeed_zero_stage(plan.strategy)


def gradient_dtype(plan: Plan) -> str:
    """The dtype in which gradients of micro-batches are summed.

    fp32, but for bf16 under ZeRO 1, where there is one micro-batch and nothing to sum.
    """
    is_bf16 = plan.strategy.training.precision != "fp32"
    return "bf16" if is_bf16 and zero_stage(plan) == 1 else "fp32"


def sums_locally(plan: Plan) -> bool:
    """Whether a rank sums gradients of micro-batches in fp32 buffers of its own.

    Reducing once does where DeepSpeed, under ZeRO 2, would reduce after each micro-batch; elsewhere DeepSpeed
    keeps gradients until the last one anyway.
    """
    return plan.reduce == "once" and zero_stage(plan) == 2 and plan.batch.accumulation > 1


def _zero(plan: Plan) -> dict[str, Any]:
    stage = zero_stage(plan)
    return {
        "stage": stage,
        # Off, ZeRO 1 gets the gradients of experts wrong (stage_1_and_2.py:866 warns that it is untested).
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket_elements(plan),
        "use_multi_rank_bucket_allreduce": True,
        "allgather_partitions": True,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "round_robin_gradients": False,
        "parameter_alignment": False,
        "load_from_fp32_weights": True,
        "ignore_unused_parameters": True,
        "compute_grad_norm": True,
    }
