"""What `plan` adds: the model of a Hugging Face config (`--from FOLDER`), and memory below the tables."""

import sys
from typing import Any

from launch.cli.output import YES, print_json
from planner import Plan, Problem, StrategyError, loads
from planner.counts.flops import model_parameters
from planner.counts.rank_workload import Load
from planner.loading.hf_config import read_config
from planner.plan.serialization import readable_json, section_yaml
from planner.rules.partial import STAND_IN


def answer_model(folder: str, *, is_json: bool, is_plain: bool) -> int:
    """Prints the model of a folder: parameters, the section to paste, the keys left out."""
    from planner.report.plan_report import Table, print_tables

    taken = read_config(folder)
    # The smallest cluster and course: only the model is asked for, and the rules on it are checked.
    stand_in = {key: section for key, section in STAND_IN.items() if key != "model"}
    model = loads(readable_json(stand_in), model_from=folder).model
    counts = model_parameters(model)
    written = {key: getattr(model, key) for key in type(model).model_fields if key in taken.section.entries}
    if is_json:
        content: dict[str, Any] = {
            "model_type": taken.model_type,
            "model": written,
            "ignored": list(taken.ignored),
            "parameters": {**dict(counts.by_kind), "total": counts.total, "active": counts.active},
        }
        print_json("plan", YES, content)
        return YES
    rows = tuple((kind, f"{count:,}") for kind, count in counts.by_kind)
    table = Table(
        title="Parameters", columns=("kind", "elements"), rows=rows, numeric=frozenset({"elements"})
    )
    heading = (f"{taken.model_type}: {counts.total:,} parameters, {counts.active:,} of them for each token",)
    print_tables(heading, (table,), (), sys.stdout, is_plain=is_plain)
    print(f"\n{section_yaml('model', written)}", end="")
    if taken.ignored:
        print(f"\nignored, without effect on the model: {', '.join(taken.ignored)}")
    return YES


def print_memory(built: Plan, load: Load, *, is_plain: bool) -> None:
    """The memory of a plan below its tables."""
    from planner.report.memory_report import memory_lines, memory_table
    from planner.report.plan_report import print_tables

    print()
    lines = memory_lines(built, load)
    print_tables(lines[:1], (memory_table(built, load),), lines[1:], sys.stdout, is_plain=is_plain)


def print_ignored(plan: Plan) -> None:
    """Which keys of a Hugging Face config, named or pasted under `model:`, have no effect."""
    ignored = plan.strategy.sources.ignored_model_keys
    if ignored:
        print(f"note: ignored keys of the model's config: {', '.join(ignored)}")


def no_strategy() -> StrategyError:
    """Neither a strategy nor a model is given."""
    return StrategyError(
        [
            Problem(
                path=None,
                line=None,
                found="Missing argument 'strategy'",
                expected="python -m launch plan STRATEGY [key=value …], or --from FOLDER",
                fix="add --help to see the options",
            )
        ]
    )
