"""`plan --from FILE` without a strategy: what the configuration of another program says of one."""

from launch.cli.output import CommandOutput
from planner import StrategyError
from planner.exit_codes import ExitCode
from planner.loading.ds_config_file import convert_ds_config, sections_of
from planner.loading.source_file import SourceFile
from planner.units import plural
from planner.yaml12_writer import sections_yaml


def answer_ds_config(output: CommandOutput, source: SourceFile) -> ExitCode:
    """Prints the keys to paste into a strategy, and what is left out with the reason."""
    found = convert_ds_config(source, {})
    if found.problems:
        raise StrategyError(found.problems)
    sections = sections_of(found.writes)
    if output.is_json:
        key: str = "deepspeed" if source.kind == "deepspeed" else "file"
        content = {key: str(source.file), "strategy": sections, "left_out": dict(found.left_out)}
        content |= {} if source.kind == "deepspeed" else {"program": source.title}
        return output.print_json(ExitCode.OK, content)
    print(f"{source.file}: {source.title}; {plural(len(found.writes), 'key')} of a strategy\n")
    print(sections_yaml(sections) if sections else "", end="")
    if found.left_out:
        print("\nleft out:")
        for key, why in found.left_out.items():
            print(f"  {key}: {why}")
    print(f"\nin a strategy: python -m launch plan STRATEGY --from {source.argument}")
    return ExitCode.OK
