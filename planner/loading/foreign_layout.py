"""Layout and batch as other programs write them: ZeRO, degrees, stages, accumulation."""

import re
from dataclasses import replace
from typing import Any

from planner.loading.foreign_meaning import AUTO, Find, Meaning, count, shown, write


def zero_stage(value: Any, find: Find) -> Meaning:
    """DeepSpeed's section, or the stage alone; the nearest stage where the one that is written is refused.

    The stage decides what is partitioned, not what is computed.
    """
    path, lost = "parallel.zero_stage", ()
    if isinstance(value, dict):
        lost = tuple(key for key, item in value.items() if key != "stage" and not _is_off(item))
        value = value.get("stage", 0)  # DeepSpeed 0.19.8, runtime/zero/config.py
    if value not in (0, 1, 2, 3, AUTO, None) or isinstance(value, (bool, float)):
        return Meaning(asks={path: "a stage of ZeRO"}, lost=lost, wrong="0, 1, 2 or 3, which becomes 2 here")
    if value == 3:
        return Meaning(writes={path: 2}, note="ZeRO 3 is not supported with experts", lost=lost)
    if value == 0 and find("training.precision") != "fp32":
        return Meaning(writes={path: 1}, note="ZeRO 0 is for fp32 only", lost=lost)
    return replace(write(path, value), lost=lost)


def data_parallel(value: Any, find: Find) -> Meaning:
    """Data-parallel ranks of the dense layers: here dp counts replicas of all experts too.

    data-parallel size = dp × max(ep, tp) / tp of a colocated stage (planner/topology/placement.py).
    """
    if value == -1:
        return _all_that_is_left(find)
    size = count(value)
    if size is None:
        return Meaning(asks={"parallel.dp": "the number of replicas of all experts"})
    return _replicas_of_experts(size * (_first(find, _REPLICAS) or 1), find)


def _replicas_of_experts(size: int, find: Find) -> Meaning:
    ep, tp = count(find("parallel.ep")) or 1, count(find("parallel.tp")) or 1
    wide = max(ep, tp)
    if size * tp % wide:
        return Meaning(
            asks={"parallel.dp": f"data-parallel size × tp / max(ep, tp), here {size * tp}/{wide}"}
        )
    return Meaning(writes={"parallel.dp": size * tp // wide})


def replicas(value: Any, find: Find) -> Meaning:
    """Replicas of what is sharded: the product of both degrees is the data-parallel size."""
    shards = next((name for name in _SHARDS if find(name) is not None), None)
    if shards is not None:
        return Meaning(no_effect=f"{shards} × {shown(value)} is the data-parallel size, as dp has it")
    if value in (None, 1):
        return Meaning(no_effect="it is one replica")
    if count(value) is None:
        return Meaning(asks={"parallel.dp": "the number of replicas of all experts"})
    return _replicas_of_experts(value, find)


_SHARDS = ("data_parallel_shard_degree", "dp_shard_size", "parallelism_config_dp_shard_size")
_REPLICAS = ("data_parallel_replicate_degree", "dp_replicate_size", "parallelism_config_dp_replicate_size")


def _first(find: Find, names: tuple[str, ...]) -> int | None:
    return next((found for name in names if (found := count(find(name))) is not None), None)


def _all_that_is_left(find: Find) -> Meaning:
    """torchtitan's -1: all GPUs that the other degrees leave."""
    ep, tp = count(find("parallel.ep")) or 1, count(find("parallel.tp")) or 1
    hosts, each = find("cluster.hosts"), count(find("cluster.gpus_per_host"))
    number = len(hosts) if isinstance(hosts, (list, tuple)) else count(hosts)
    rest = (count(find("parallel.pp")) or 1) * max(ep, tp)
    is_plain = not isinstance(hosts, (list, tuple)) or not any(re.search(r"[\s\[]", str(h)) for h in hosts)
    world = (number - (count(find("cluster.spare_hosts")) or 0)) * each if number and each and is_plain else 0
    if world < 1 or world % rest:
        return Meaning(asks={"parallel.dp": "-1 is all GPUs: their number / (pp × max(ep, tp))"})
    return Meaning(writes={"parallel.dp": world // rest}, note=f"-1 is all {world} GPUs")


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
    size = each * (dp or 1)
    asks = Meaning(asks={"training.micro_batch": "global_batch / (accumulation × data-parallel size)"})
    if steps is None:
        return write("training.micro_batch", AUTO) if value == AUTO else asks
    if batch is None:
        return asks if micro is None else Meaning(writes={"training.global_batch": micro * steps * size})
    if micro is None:
        if batch % (steps * size):
            return asks
        return Meaning(writes={"training.micro_batch": batch // (steps * size)})
    if batch == micro * steps * size:
        return Meaning(no_effect=f"{steps} follows: global_batch / (micro_batch × data-parallel size)")
    if dp is None and batch % (micro * steps * each) == 0:
        return Meaning(writes={"parallel.dp": batch // (micro * steps * each)})
    why = f"{batch} sequences are not {micro} × {steps} × data-parallel size, which is {size} here"
    legal = ""
    if batch % micro:
        legal = f"{micro} × accumulation × number of ranks = {batch}, which no accumulation gives"
    elif batch % (micro * steps):
        legal = f"a divisor of {batch // micro}"
    return Meaning(asks={"training.micro_batch": why}, wrong=legal)


def _is_off(value: Any) -> bool:
    return value in (False, None) or (isinstance(value, dict) and value.get("device") == "none")
