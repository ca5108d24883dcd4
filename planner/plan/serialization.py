"""Files that describe a run: the bytes of strategy.yaml, plan.json and ds_config.json."""

import json
from collections.abc import Mapping
from typing import Any

from planner.plan.ds_config import ds_config, zero_stage
from planner.plan.notes import list_notes
from planner.plan.plan import Plan
from planner.strategy.field_types import AS_TEXT
from planner.strategy.schema import Strategy
from planner.topology.grid import Grid
from planner.yaml12_writer import sections_yaml

SCHEMA_VERSION = 1


def strategy_yaml(plan: Plan) -> str:
    """The strategy with every default written; `load` reads it back to an equal Strategy."""
    return f"# plan {plan.fingerprint}\n{full_strategy(plan.strategy)}"


def full_strategy(strategy: Strategy) -> str:
    """A strategy as YAML with every default written and every quantity with its unit."""
    return sections_yaml(strategy.model_dump(context=AS_TEXT))


def ds_config_json(plan: Plan) -> str:
    """The configuration for deepspeed.initialize on every rank, with the fingerprint under `switchyard`."""
    return readable_json(ds_config(plan))


def plan_json(plan: Plan, environment: Mapping[str, str] | None = None) -> str:
    """The plan as tables: stages, hosts, and for each rank its host, stage and groups.

    `environment`: the operator variables in effect (see planner.plan.operator_env).
    """
    return readable_json(plan_dict(plan, environment))


def plan_dict(plan: Plan, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The content of plan.json."""
    parallel = plan.strategy.parallel
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "name": plan.strategy.name,
        "placement": parallel.placement,
        "degrees": parallel.short_name,
        "layers_per_stage": None if parallel.layers_per_stage is None else list(parallel.layers_per_stage),
        "zero_stage": {"strategy": parallel.zero_stage, "deepspeed": zero_stage(plan)},
        "world_size": plan.world_size,
        "batch": {
            "global_batch": plan.batch.global_batch,
            "micro_batch": plan.batch.micro_batch,
            "accumulation": plan.batch.accumulation,
        },
        "stages": [
            {
                "name": stage.name,
                "layers": list(stage.layers),
                "has_embedding": stage.contents.embedding,
                "has_norm": stage.contents.norm,
                "has_output": stage.contents.output,
                "ranks": [stage.dense.first_rank, stage.dense.last_rank],
                "micro_batch": plan.batch.micro_batch_of(stage),
                "dense": _grid(stage.dense),
                "expert": None if stage.expert is None else _grid(stage.expert),
            }
            for stage in plan.stages
        ],
        "hosts": [{"name": host.name, "ranks": [host.ranks[0], host.ranks[-1]]} for host in plan.hosts],
        "ranks": [
            {
                "rank": rank,
                "host": host.name,
                "local_rank": local_rank,
                "stage": plan.stage_of(rank).name,
                **_coordinates(plan, rank),
            }
            for host in plan.hosts
            for local_rank, rank in enumerate(host.ranks)
        ],
        "notes": list(list_notes(plan)),
        "environment": dict(sorted((environment or {}).items())),
    }


def _grid(grid: Grid) -> dict[str, int]:
    return dict(zip(grid.axes, grid.sizes, strict=True))


def _coordinates(plan: Plan, rank: int) -> dict[str, int]:
    stage = plan.stage_of(rank)
    grids = [stage.dense] if stage.expert is None else [stage.dense, stage.expert]
    return {axis: grid.coordinate(axis, rank) for grid in grids for axis in grid.axes}


def readable_json(value: Any) -> str:
    """JSON with each value on one line if it fits; the same value gives the same bytes."""
    return _readable(value, "") + "\n"


def _readable(value: Any, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list)) or not value or len(indent) + len(flat) <= 110:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=False)}: {_readable(item, inner)}" for key, item in value.items()
        ]
        opening, closing = "{", "}"
    else:
        items = [_readable(item, inner) for item in value]
        opening, closing = "[", "]"
    body = ",\n".join(inner + item for item in items)
    return f"{opening}\n{body}\n{indent}{closing}"
