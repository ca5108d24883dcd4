"""The `audit` command: the claims, load balance and compatibility checks of a strategy, judged."""

import sys

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides, StrategyFile
from launch.cli.output import CommandOutput
from launch.commands.prediction import device_for
from planner import build_plan, load
from planner.exit_codes import ExitCode
from planner.loading.loader import known_names


@command
def audit(
    output: CommandOutput, strategy: StrategyFile, overrides: Overrides = None, hardware: HardwareFile = None
) -> ExitCode:
    """Check every claim of a strategy against derived values; exit code 1 if a claim or check fails."""
    from planner.audit.audit import audit as judge
    from planner.prediction.predict import predict
    from planner.report.audit_report import audit_dict, print_audit

    plan = build_plan(load(strategy, only_overrides(overrides), hardware=hardware))
    found = judge(plan, predict(plan, device_for(plan.strategy, hardware)), known_names(hardware))
    code = ExitCode.OK if found.holds else ExitCode.NEGATIVE
    if output.is_json:
        return output.print_json(code, {"audit": audit_dict(plan, found)})
    print_audit(plan, found, sys.stdout, is_plain=output.is_plain)
    return code
