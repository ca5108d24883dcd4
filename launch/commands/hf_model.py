"""`plan --from FOLDER` without a strategy: the model of a Hugging Face config.json."""

from launch.cli.output import CommandOutput
from planner import loads
from planner.counts.parameters import model_parameters
from planner.exit_codes import ExitCode
from planner.loading.hf_config import read_config
from planner.plan.serialization import readable_json
from planner.rules.partial import STAND_IN
from planner.yaml12_writer import section_yaml


def answer_model(output: CommandOutput, folder: str) -> ExitCode:
    """Prints parameters, the `model:` section to paste, and the keys that have no effect.

    Raises:
        StrategyError: if the config cannot be read, or its model is not supported.
    """
    from planner.report.tables import Table

    taken = read_config(folder)
    # The smallest cluster and training: only the model is asked for, and the rules on it are checked.
    stand_in = {key: section for key, section in STAND_IN.items() if key != "model"}
    model = loads(readable_json(stand_in), model_from=folder).model
    counts = model_parameters(model)
    written = {key: getattr(model, key) for key in type(model).model_fields if key in taken.section.entries}
    if output.is_json:
        content = {
            "model_type": taken.model_type,
            "model": written,
            "training": {} if taken.balance is None else {"balance": taken.balance},
            "ignored": list(taken.ignored),
            "parameters": {**dict(counts.by_kind), "total": counts.total, "active": counts.active},
        }
        return output.print_json(ExitCode.OK, content)
    rows = tuple((kind, f"{count:,}") for kind, count in counts.by_kind)
    table = Table(
        title="Parameters", columns=("kind", "elements"), rows=rows, numeric=frozenset({"elements"})
    )
    heading = f"{taken.model_type}: {counts.total:,} parameters, {counts.active:,} active per token"
    output.print_tables((heading,), (table,))
    print(f"\n{section_yaml('model', written)}", end="")
    if taken.balance is not None:
        print(section_yaml("training", {"balance": taken.balance}), end="")
    if taken.ignored:
        print(f"\nignored, without effect on the model: {', '.join(taken.ignored)}")
    return ExitCode.OK
