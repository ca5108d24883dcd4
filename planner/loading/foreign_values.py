"""Values of keys as other programs write them, converted to keys and values of a strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from typing import Any

from planner.strategy.training import Training

AUTO = "auto"  # the Hugging Face Trainer replaces it in a DeepSpeed configuration


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a key of another program is here.

    writes: dotted key here -> value. asks: dotted key here -> why its value is not known. no_effect: why the
    key can be left out without a change. refused: why it cannot be expressed; without writes the key has to
    be given up. lost: parts of a mapping that have no counterpart.
    """

    writes: Mapping[str, Any] = field(default_factory=dict)
    asks: Mapping[str, str] = field(default_factory=dict)
    no_effect: str = ""
    refused: str = ""
    lost: tuple[str, ...] = ()
    note: str = ""


Find = Callable[
    [str], Any
]  # the value of a dotted key here, under whichever name it is written; None without
Convert = Callable[[Any, Find], Meaning]


def same(path: str) -> Convert:
    """The value as it is."""
    return lambda value, find: write(path, value)


def always(meaning: Meaning) -> Convert:
    """The same meaning whatever the value is."""
    return lambda value, find: meaning


def write(path: str, value: Any) -> Meaning:
    """A value for a key here; `auto` and null leave it open."""
    if value == AUTO:
        return Meaning(asks={path: "auto leaves it to the Hugging Face Trainer"})
    if value is None:
        return Meaning(no_effect="null leaves it to the default")
    return Meaning(writes={path: value})


def words(
    path: str | None, table: Mapping[str, Any], no_effect: Mapping[str, str], refused: Mapping[str, str]
) -> Convert:
    """A word or a switch (`true`, `false`) by tables: to a value here, or to why there is none."""

    def convert(value: Any, find: Find) -> Meaning:
        word = str(value).lower().removeprefix("torch.")
        if word in no_effect:
            return Meaning(no_effect=no_effect[word])
        if path is None:
            return Meaning(refused=refused.get(word, f"{word} has no counterpart"))
        if word in refused:
            return Meaning(refused=refused[word])
        if word in table:
            return Meaning(writes={path: table[word]})
        return write(path, value) if value in (AUTO, None) else Meaning(asks={path: f"not {word}"})

    return convert


def count(value: Any) -> int | None:
    """The value as a count of at least 1; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return int(value) if value >= 1 and value == int(value) else None


def number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return value


def samples_as_tokens(value: Any, find: Find) -> Meaning:
    samples, length = count(value), count(find("training.seq_length"))
    if samples is None or length is None:
        return Meaning(asks={"training.tokens": "samples × seq_length"})
    return Meaning(writes={"training.tokens": samples * length})


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
    return Meaning(writes={"launch.timeout": f"{found:g} {unit}"})


def first_beta(value: Any, find: Find) -> Meaning:
    return _betas(value, _one_of(find, "adam_beta2", "beta2", "beta_2", default=0.95))


def second_beta(value: Any, find: Find) -> Meaning:
    return _betas(_one_of(find, "adam_beta1", "beta1", "beta_1", default=0.9), value)


def _betas(first: Any, second: Any) -> Meaning:
    """AdamW's decay rates are one key here; one that is not written keeps its default."""
    path = "training.optimizer.betas"
    if number(first) is None or number(second) is None:
        return Meaning(asks={path: "[beta1, beta2]"})
    return Meaning(writes={path: [first, second]})


def _one_of(find: Find, *names: str, default: float) -> Any:
    return next((value for name in names if (value := find(name)) is not None), default)


def zero_stage(value: Any, find: Find) -> Meaning:
    """DeepSpeed's section, or the stage alone; the nearest stage where the one that is written is refused.

    The stage decides what is partitioned, not what is computed.
    """
    path, lost = "parallel.zero_stage", ()
    if isinstance(value, dict):
        lost = tuple(key for key, item in value.items() if key != "stage" and not _is_off(item))
        value = value.get("stage", 0)  # DeepSpeed 0.19.8, runtime/zero/config.py
    if value == 3:
        return Meaning(writes={path: 2}, note="ZeRO 3 is not supported with experts", lost=lost)
    if value == 0 and find("training.precision") != "fp32":
        return Meaning(writes={path: 1}, note="ZeRO 0 is for fp32 only", lost=lost)
    return replace(write(path, value), lost=lost)


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
        return Meaning(refused="fp16 with loss scaling is not supported")
    written = find(path)
    return Meaning(writes={path: "fp32"}) if written is None else Meaning(no_effect=f"precision is {written}")


def balancing_type(value: Any, find: Find) -> Meaning:
    if value in ("aux_loss", "seq_aux_loss", "global_aux_loss"):
        return Meaning(writes={"training.balance": "loss"})
    if value == "none":
        return Meaning(writes={"training.balance_loss": 0})
    return Meaning(refused="experts are balanced by a loss or a bias")


def data_parallel(value: Any, find: Find) -> Meaning:
    """Data-parallel ranks of the dense layers: here dp counts replicas of all experts too.

    data-parallel size = dp × max(ep, tp) / tp of a colocated stage (planner/topology/placement.py).
    """
    size, ep, tp = count(value), count(find("parallel.ep")) or 1, count(find("parallel.tp")) or 1
    if size is None:
        return Meaning(asks={"parallel.dp": "the number of replicas of all experts"})
    wide = max(ep, tp)
    if size * tp % wide:
        return Meaning(
            asks={"parallel.dp": f"data-parallel size × tp / max(ep, tp), here {size * tp}/{wide}"}
        )
    return Meaning(writes={"parallel.dp": size * tp // wide})


def first_stage(value: Any, find: Find) -> Meaning:
    """Layers of the first stage; those of the others are equal, as in Megatron-LM."""
    return _stages(value, find, is_first=True)


def last_stage(value: Any, find: Find) -> Meaning:
    return _stages(value, find, is_first=False)


def stage_layout(value: Any, find: Find) -> Meaning:
    """Megatron-LM's text of letters, one for each layer: embedding and loss are layers there."""
    return Meaning(asks={"parallel.layers_per_stage": "a list of the layers of each stage, [10, 6]"})


def _stages(value: Any, find: Find, *, is_first: bool) -> Meaning:
    path, own = "parallel.layers_per_stage", count(value)
    layers, pp = count(find("model.num_hidden_layers")), count(find("parallel.pp"))
    if own is None or layers is None or pp is None or pp < 2 or own >= layers or (layers - own) % (pp - 1):
        return Meaning(asks={path: "a list of the layers of each stage, [10, 6]"})
    others = [(layers - own) // (pp - 1)] * (pp - 1)
    return Meaning(writes={path: [own, *others] if is_first else [*others, own]})


def accumulation(value: Any, find: Find) -> Meaning:
    """global_batch = micro_batch × accumulation × data-parallel size of the widest stage."""
    steps = count(value)
    batch, micro = (count(find(f"training.{key}")) for key in ("global_batch", "micro_batch"))
    dp, ep, tp = (count(find(f"parallel.{key}")) for key in ("dp", "ep", "tp"))
    ep, tp = ep or 1, tp or 1
    is_staged = find("parallel.placement") == "staged"
    each = ep if is_staged else max(ep, tp) // tp  # data-parallel size of dp 1
    asks = Meaning(asks={"training.micro_batch": "global_batch / (accumulation × data-parallel size)"})
    if steps is None:
        return asks
    if batch is None:
        return (
            asks
            if micro is None
            else Meaning(writes={"training.global_batch": micro * steps * each * (dp or 1)})
        )
    if micro is None:
        size = each * (dp or 1)
        return (
            asks
            if batch % (steps * size)
            else Meaning(writes={"training.micro_batch": batch // (steps * size)})
        )
    if batch == micro * steps * each * (dp or 1):
        return Meaning(no_effect=f"{steps} follows: global_batch / (micro_batch × data-parallel size)")
    if dp is None and batch % (micro * steps * each) == 0:
        return Meaning(writes={"parallel.dp": batch // (micro * steps * each)})
    return asks


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


def capacity(value: Any, find: Find) -> Meaning:
    """A capacity factor means that tokens are dropped beyond it."""
    if value is None or (number(value) is not None and value <= 0):
        return Meaning(no_effect="tokens are not dropped here either")
    return Meaning(writes={"model.dispatch": "capacity", "model.capacity_factor": value})


def expert_width(value: Any, find: Find) -> Meaning:
    """Megatron's ffn_hidden_size: of experts, unless moe_ffn_hidden_size is written: then of dense layers."""
    if find("moe_ffn_hidden_size") is None and find("model.moe_intermediate_size") in (None, value):
        return write("model.moe_intermediate_size", value)
    if not count(find("model.first_dense_layers")):
        return Meaning(no_effect="no layer is dense (model.first_dense_layers)")
    return write("model.intermediate_size", value)


def shared_width(value: Any, find: Find) -> Meaning:
    """Width of all shared experts together."""
    path, each = "model.num_shared_experts", count(find("model.moe_intermediate_size"))
    if value is None or value == 0:
        return Meaning(no_effect="no expert is shared here either")
    width = count(value)
    if width is None or each is None or width % each:
        return Meaning(asks={path: "the shared width / moe_intermediate_size"})
    return Meaning(writes={path: width // each})


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


def _is_off(value: Any) -> bool:
    return value in (False, None) or (isinstance(value, dict) and value.get("device") == "none")


CONVERTERS: Mapping[str, Convert] = {
    converter.__name__: converter
    for converter in (
        accumulation,
        balancing_type,
        bf16_section,
        bias_speed,
        capacity,
        data_parallel,
        expert_width,
        first_stage,
        last_stage,
        stage_layout,
        first_beta,
        hostfile,
        hugging_face_balance,
        last_checkpoints,
        minutes,
        samples_as_tokens,
        second_beta,
        seconds,
        share_of_learning_rate,
        share_of_steps,
        shared_width,
        zero_stage,
    )
}
