"""Machine and sharding as accelerate, Slurm and FSDP write them: processes, devices, sharding strategies."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.loading.foreign_meaning import Find, Meaning, count, shown, value_here, write

# FSDP's sharding strategies, by torch's names and accelerate's numbers -> the stage of ZeRO that is as much
_SHARDING: Mapping[str, int] = {
    **dict.fromkeys(("full_shard", "hybrid_shard", "1", "4", "true"), 3),
    **dict.fromkeys(("shard_grad_op", "hybrid_shard_zero2", "_hybrid_shard_zero2", "2", "5"), 2),
    **dict.fromkeys(("no_shard", "3"), 0),
}
_FSDP = "FSDP is not used: DeepSpeed's ZeRO partitions"


def processes(value: Any, find: Find) -> Meaning:
    """Ranks of all hosts together."""
    path, ranks = "cluster.gpus_per_host", count(value)
    hosts = find("cluster.hosts")
    number = 1 if hosts is None else len(hosts) if isinstance(hosts, (list, tuple)) else count(hosts)
    if value is None or ranks is None or number is None or ranks % number:
        return Meaning(asks={path: "all processes / number of hosts"})
    return replace(write(path, ranks // number), note="dp × pp × max(ep, tp) of all of them train")


def devices(value: Any, find: Find) -> Meaning:
    """Which devices of a host are used: here its first ones."""
    if value is None or value == "all":
        return Meaning(no_effect="a rank uses the device of its number")
    return Meaning(
        refused=f"ranks use the devices 0, 1, … of a host, not {shown(value)}",
        without="cluster.gpus_per_host then says how many",
    )


def on_cpu(value: Any, find: Find) -> Meaning:
    if value is True:
        return Meaning(writes={"cluster.gpu": "cpu"})
    return Meaning(no_effect="cluster.gpu says the device")


def fsdp(value: Any, find: Find) -> Meaning:
    """FSDP's section, its words (`full_shard auto_wrap`), or its sharding strategy alone."""
    path, offloads = "parallel.zero_stage", False
    if isinstance(value, Mapping):
        plain = {key.removeprefix("fsdp_"): item for key, item in value.items()}
        offloads = plain.get("offload_params") is True
        value = plain.get("sharding_strategy")
        if value is None and plain:  # FSDP 2
            value = "shard_grad_op" if plain.get("reshard_after_forward") is False else "full_shard"
    listed = value if isinstance(value, (list, tuple)) else str(value).split()
    words = [str(word).lower().strip(",") for word in listed]
    offloads = offloads or "offload" in words
    if value in (None, "", False) or not words:
        return Meaning(no_effect=f"{shown(value)} means off")
    stage = next((_SHARDING[word] for word in words if word in _SHARDING), None)
    if stage is None:
        return Meaning(refused=_FSDP, without=value_here(path, find))
    stage = 1 if stage == 0 and find("training.precision") != "fp32" else stage
    note = "FSDP's full sharding is that of ZeRO 3, which is not supported with experts" if stage == 3 else ""
    lost = "offloading is not supported" if offloads else ""
    return Meaning(
        writes={path: min(stage, 2)}, note="; ".join(filter(None, (note or "ZeRO in place of FSDP", lost)))
    )
