"""Arguments and options that several commands have."""

from typing import Annotated

import typer

StrategyFile = Annotated[str, typer.Argument(help="strategy file in YAML")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value changes a key of the strategy", show_default=False)
]
HardwareFile = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="FILE",
        help="hardware file: measurements, devices and links of one's own",
        show_default=False,
    ),
]
