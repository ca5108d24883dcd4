"""Programs whose configurations are told apart by content: DeepSpeed, Megatron-LM, NeMo, torchtitan, …"""

from collections.abc import Collection
from collections.abc import Mapping as MappingOf

from planner.loading.foreign_names import find_foreign
from planner.yaml12 import Mapping

DEEPSPEED, MEGATRON = "a DeepSpeed configuration", "a Megatron-LM configuration"
TRAINER = "a file of Hugging Face's TrainingArguments"
ACCELERATE = "an accelerate configuration"
AXOLOTL, LLAMA_FACTORY = "an Axolotl configuration", "a LLaMA-Factory configuration"
# Keys that have another meaning in one program than elsewhere: why they have none here.
OTHER_MEANINGS: MappingOf[str, MappingOf[str, str]] = {
    LLAMA_FACTORY: {
        "dataset": "names in its dataset_info.json; write the files of those in data.path",
        "template": "its name of a chat template; here the tokenizer's own is used (data.tokenizer)",
    },
    AXOLOTL: {
        "datasets": "write the files of these in data.path, and data.format",
        "model_type": "the class that loads base_model",
    },
}
# Keys by which a DeepSpeed configuration is recognized: a strategy and a model's config have none of them.
_DEEPSPEED = frozenset(
    {
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("zero_optimization", "bf16", "fp16", "zero_allow_untested_optimizer", "wall_clock_breakdown"),
        *("steps_per_print", "scheduler", "gradient_clipping"),
    }
)
_ACCELERATE = frozenset(
    {
        *("compute_environment", "distributed_type", "num_processes", "num_machines", "machine_rank"),
        *("deepspeed_config", "fsdp_config", "megatron_lm_config", "main_training_function", "rdzv_backend"),
        *("main_process_ip", "downcast_bf16"),
    }
)
_DEEPSPEED_ALONE = _DEEPSPEED - {"gradient_accumulation_steps", "bf16", "fp16", "scheduler"}
_SECTIONS = frozenset({"model", "training", "parallel", "data", "runtime", "output", "limits"})
_TORCHTITAN = frozenset(
    {"job", "parallelism", "lr_scheduler", "activation_checkpoint", "metrics", "profiling"}
)


def find_program(root: Mapping) -> str | None:
    """What the file is; None for a strategy, a model's config, or what no mark tells."""
    keys = {key.lstrip("-").replace("-", "_") for key in root.entries}
    if "base_model" in keys and not keys & (_SECTIONS | {"cluster"}):
        return AXOLOTL  # which may write a model_type too: the class that loads the base model
    if keys & {"cluster", "model_type", "architectures"}:
        return None
    if "trainer" in keys and keys & {"model", "exp_manager", "optim"}:
        return "a NeMo configuration"
    if "parallelism" in keys and keys & {"general", "data_stages", "checkpoints", "tokens"}:
        return "a nanotron configuration"
    if len(keys & _TORCHTITAN) > 1 or (keys & _TORCHTITAN and keys & {"training", "model"}):
        return "a torchtitan configuration"
    if keys & _SECTIONS:
        return None
    return _flat_program(keys)


def _flat_program(keys: Collection[str]) -> str | None:
    """Of a file without sections of a strategy."""
    given = set(keys)
    if len(given & _ACCELERATE) > 1:
        return ACCELERATE
    if given & {"finetuning_type", "cutoff_len"}:
        return LLAMA_FACTORY
    if given & _DEEPSPEED_ALONE:
        return DEEPSPEED
    if given & {"per_device_train_batch_size", "num_train_epochs"}:
        return TRAINER
    named = [entry for key in given if (entry := find_foreign((key,))) is not None]
    if any(entry.program == "Megatron-LM" for entry in named):
        return MEGATRON
    return DEEPSPEED if given & _DEEPSPEED else None
