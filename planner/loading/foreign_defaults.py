"""Defaults of other programs that differ from those here, for keys that their files do not write."""

from collections.abc import Iterator, Mapping
from typing import Any

from planner.loading.programs import AXOLOTL, LLAMA_FACTORY, MEGATRON, TRAINER
from planner.loading.value_examples import example_of
from planner.yaml12_writer import flow_yaml

# Keys whose default in DeepSpeed 0.19.8 or torch is another than here: (key there, key here).
_OTHER_DEFAULTS = (
    ("optimizer.params.betas", "training.optimizer.betas"),
    ("optimizer.params.weight_decay", "training.optimizer.weight_decay"),
    ("scheduler.params.cos_min_ratio", "training.min_learning_rate"),
)


_BETAS = "training.optimizer.betas"
_SCHEDULE = "here it is a linear warm-up and a cosine"
# transformers' TrainingArguments, which LLaMA-Factory's extend.
_TRAINER = (
    ("learning_rate", 5e-5, "training.learning_rate"),
    ("weight_decay", 0, "training.optimizer.weight_decay"),
    ("adam_beta2", 0.999, _BETAS),
    ("warmup_steps", 0, "training.warmup_steps"),
    ("lr_scheduler_type", "linear", _SCHEDULE),
)
# Megatron-LM's arguments.py, transformers 5 and Axolotl's schemas: key there, its default there, and the key
# here or what is here instead.
DEFAULTS: Mapping[str, tuple[tuple[str, Any, str], ...]] = {
    MEGATRON: (
        ("moe_router_topk", 2, "model.num_experts_per_tok"),
        ("norm_epsilon", 1e-5, "model.rms_norm_eps"),
        ("weight_decay", 0.01, "training.optimizer.weight_decay"),
        ("adam_beta2", 0.999, _BETAS),
        ("moe_aux_loss_coeff", 0, "training.balance_loss"),
        ("lr_decay_style", "linear", _SCHEDULE),
        ("normalization", "LayerNorm", "here every norm is an RMSNorm"),
    ),
    TRAINER: _TRAINER,
    LLAMA_FACTORY: _TRAINER,
    AXOLOTL: (
        ("weight_decay", 0, "training.optimizer.weight_decay"),
        ("adam_beta2", 0.999, _BETAS),
    ),
}


def program_defaults(title: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for theirs, default, here in DEFAULTS.get(title, ()):
        if theirs in config or theirs.replace("_", "-") in config:
            continue
        if theirs == "warmup_steps" and "warmup_ratio" in config:
            continue
        if "." in here:
            here = f"{here} is {flow_yaml(example_of(here.split('.')))} unless you set it"
        yield theirs, f"is not written, which is {flow_yaml(default)} there; {here}"


def deepspeed_defaults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    scheduler = config.get("scheduler")
    kind = scheduler.get("type") if isinstance(scheduler, dict) else None
    for theirs, here in _OTHER_DEFAULTS:
        if theirs.startswith("scheduler") and kind != "WarmupCosineLR":
            continue
        section, _, last = theirs.rpartition(".")
        place: Any = config
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and last not in place:
            default = flow_yaml(example_of(here.split(".")))
            yield theirs, f"is not written; {here} is {default} unless you set it"
    params = scheduler.get("params") if isinstance(scheduler, dict) else None
    if isinstance(params, dict) and "warmup_type" not in params and str(kind).startswith("Warmup"):
        yield "scheduler.params.warmup_type", "is not written, which is log there; the warm-up is linear here"
