"""What commands share on the command line: the strategy, what changes it, how to answer."""

from collections.abc import Callable
from typing import Annotated

import typer

# What a command does once its arguments are read. It runs outside of typer, which would turn an interrupt
# and a closed pipe into exits of its own.
Work = Callable[[], int]

StrategyFile = Annotated[str, typer.Argument(help="a strategy in YAML")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value …", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Plain = Annotated[bool, typer.Option("--plain", help="text without colour and lines, for logs")]
Calibration = Annotated[str | None, typer.Option("--hardware", help="a calibration", show_default=False)]
