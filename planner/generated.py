"""Writes the generated files: the json beside each strategy, the schema for editors,
the strategy reference, the errors page, the page of foreign names.

python -m planner.generated
"""

import argparse
from pathlib import Path

from planner.build import build_plan
from planner.loading.json_schema import json_schema
from planner.loading.loader import load
from planner.plan.serialization import ds_config_json
from planner.report.errors_page import errors_page
from planner.report.foreign_names_page import foreign_names_page
from planner.report.strategy_reference import strategy_reference
from planner.standard_streams import run_program
from planner.version import VERSION

FOLDER = Path("ds_configs")
SCHEMA = FOLDER / "strategy.schema.json"
REFERENCE = Path("docs/strategy.md")
ERRORS = Path("docs/errors.md")
FOREIGN_NAMES = Path("docs/foreign-names.md")


def write_generated() -> None:
    """Brings every generated file up to date with what it is generated from."""
    for path in sorted(FOLDER.glob("*.yaml")):
        path.with_suffix(".json").write_text(ds_config_json(build_plan(load(path))), encoding="utf-8")
    SCHEMA.write_text(json_schema(), encoding="utf-8")
    REFERENCE.write_text(strategy_reference(), encoding="utf-8")
    ERRORS.write_text(errors_page(), encoding="utf-8")
    FOREIGN_NAMES.write_text(foreign_names_page(), encoding="utf-8")


def main() -> None:
    """Writes all files, or prints the help or the version."""
    parser = argparse.ArgumentParser(prog="python -m planner.generated", description=write_generated.__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {VERSION}")
    parser.parse_args()
    write_generated()


if __name__ == "__main__":
    run_program(main)
