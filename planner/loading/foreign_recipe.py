"""Recipe of a training as other programs write it: schedule, optimizer, precision, balance, checkpoints."""

from dataclasses import replace
from math import ceil
from typing import Any

from planner.loading.foreign_meaning import AUTO, Find, Meaning, count, number, shown, value_here, write
from planner.strategy.field_types import LONGEST_WAIT
from planner.strategy.training import Training
from planner.units import UNITS, parse_quantity


def bound_of_steps(value: Any, find: Find) -> Meaning:
    """-1 is no bound in the Trainer and in Lightning."""
    if value == -1:
        return Meaning(no_effect="-1 is no bound")
    return write("training.steps", value)


def samples_as_tokens(value: Any, find: Find) -> Meaning:
    samples, length = count(value), count(find("training.seq_length"))
    if samples is None or length is None:
        return Meaning(asks={"training.tokens": "samples × seq_length"})
    return Meaning(writes={"training.tokens": samples * length})


def epochs(value: Any, find: Find) -> Meaning:
    """Passes over the data, whose tokens are not known before a run has read them."""
    if value is None or value == -1:
        return Meaning(no_effect=f"{'null' if value is None else -1} is no bound")
    times = f"{value:g}" if number(value) is not None else "epochs"
    refused = f"there are no epochs here; {times} × the tokens of your data would be training.tokens"
    unknown = "the tokens of an epoch are not known before a run has read the data"
    for key in ("steps", "tokens"):
        if (written := find(f"training.{key}")) is not None:
            return Meaning(refused=refused, without=f"training.{key}, {shown(written)}, is kept; {unknown}")
    return Meaning(refused=refused, without=f"training.steps says how long instead; {unknown}")


def share_of_learning_rate(value: Any, find: Find) -> Meaning:
    path, part, peak = "training.min_learning_rate", number(value), find("training.learning_rate")
    peak = number(Training.model_fields["learning_rate"].default if peak is None else peak)
    if part is None or peak is None or not 0 <= part <= 1:
        return Meaning(asks={path: "share × learning_rate"})
    return Meaning(writes={path: float(f"{part * peak:.6g}")})


def share_of_steps(value: Any, find: Find) -> Meaning:
    path, part, steps = "training.warmup_steps", number(value), count(find("training.steps"))
    if part == 0:
        return Meaning(writes={path: 0})
    if part is None or steps is None or not 0 <= part <= 1:
        return Meaning(asks={path: "share × steps"})
    return Meaning(writes={path: ceil(part * steps)})  # as the Trainer rounds it


def minutes(value: Any, find: Find) -> Meaning:
    return _duration(value, "min")


def seconds(value: Any, find: Find) -> Meaning:
    return _duration(value, "s")


def _duration(value: Any, unit: str) -> Meaning:
    found = number(value)
    if found is None or found <= 0:
        return Meaning(asks={"launch.timeout": f"a number of {unit}"})
    if found * float(UNITS["seconds"][unit]) > parse_quantity(LONGEST_WAIT, "seconds"):
        # As good as none there.
        return Meaning(writes={"launch.timeout": LONGEST_WAIT}, note=f"{LONGEST_WAIT} is the longest")
    return Meaning(writes={"launch.timeout": f"{found:g} {unit}"})


def first_beta(value: Any, find: Find) -> Meaning:
    other = _one_of(find, "adam_beta2", "beta2", "beta_2")
    if other is None:
        note = "the second is not written: it is 0.95 here, 0.999 in Megatron-LM and the Trainer"
        return replace(_betas(value, 0.95), note=note)
    return _betas(value, other)


def second_beta(value: Any, find: Find) -> Meaning:
    return _betas(_one_of(find, "adam_beta1", "beta1", "beta_1") or 0.9, value)


def _betas(first: Any, second: Any) -> Meaning:
    """AdamW's decay rates are one key here; one that is not written keeps its default."""
    path = "training.optimizer.betas"
    if number(first) is None or number(second) is None:
        return Meaning(asks={path: "[beta1, beta2]"})
    return Meaning(writes={path: [first, second]})


def _one_of(find: Find, *names: str) -> Any:
    return next((value for name in names if (value := find(name)) is not None), None)


def bf16_section(value: Any, find: Find) -> Meaning:
    """`bf16: true`, or DeepSpeed's `bf16: {enabled: true}`."""
    path = "training.precision"
    is_on = value.get("enabled", False) if isinstance(value, dict) else value
    if is_on is True:
        return Meaning(writes={path: "bf16"})
    if is_on == AUTO:
        return write(path, AUTO)
    if is_on is not False:
        return Meaning(asks={path: "bf16 or fp32"})
    if _is_on(find("fp16")):
        return Meaning(refused="fp16 with loss scaling is not supported", without=value_here(path, find))
    written = find(path)
    # A precision under this name contradicts bf16, or says the same; both are told.
    if written in (None, "bf16", "fp32"):
        return Meaning(writes={path: "fp32"})
    return Meaning(no_effect=f"precision is {shown(written)}")


def balancing_type(value: Any, find: Find) -> Meaning:
    if value in ("aux_loss", "seq_aux_loss", "global_aux_loss"):
        return Meaning(writes={"training.balance": "loss"})
    if value == "none":
        return Meaning(writes={"training.balance_loss": 0})
    return Meaning(
        refused="experts are balanced by a loss or a bias", without="training.balance is then loss"
    )


def hugging_face_balance(value: Any, find: Find) -> Meaning:
    """transformers' load_balancing_loss_func sums over the k choices and takes the mean over layers; here
    the loss is that of one choice, summed over layers."""
    path = "training.balance_loss"
    coefficient, layers = number(value), count(find("model.num_hidden_layers"))
    if coefficient is None or layers is None:
        return Meaning(asks={path: "coefficient × num_experts_per_tok / number of MoE layers"})
    num_moe = layers - (count(find("model.first_dense_layers")) or 0)
    k = count(find("model.num_experts_per_tok")) or 1
    if num_moe < 1:
        return Meaning(no_effect="no layer has experts")
    return Meaning(writes={path: float(f"{coefficient * k / num_moe:.6g}")})


def bias_speed(value: Any, find: Find) -> Meaning:
    """torchtitan's load_balance_coeff: the step of the expert bias."""
    if value is None or number(value) == 0:
        return Meaning(no_effect="experts have no bias then")
    return Meaning(writes={"training.balance": "bias", "training.bias_update_speed": value})


def hostfile(value: Any, find: Find) -> Meaning:
    return Meaning(writes={"cluster.hosts": {"hostfile": value}})


def last_checkpoints(value: Any, find: Find) -> Meaning:
    """0 and null keep all in torchtitan and the Trainer."""
    if value in (0, None):
        return Meaning(writes={"output.keep_every": 1})
    return write("output.keep_last", value)


def _is_on(value: Any) -> bool:
    return value is True or (isinstance(value, dict) and value.get("enabled") is True)
