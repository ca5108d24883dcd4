"""The audit command: loads, predicts and judges; the answer is yes when every claim and check holds."""

import sys
from collections.abc import Sequence

from launch.cli.output import NO, YES, is_terminal, print_json
from planner import build_plan, load
from planner.audit.audit import audit
from planner.hardware.catalog import calibration_path, device_of
from planner.prediction.predict import predict
from planner.report.audit_report import audit_dict, print_audit


def run_audit(strategy: str, overrides: Sequence[str], *, is_json: bool, is_plain: bool) -> int:
    """Prints the audit of a strategy; the exit code.

    Raises:
        StrategyError: with every Problem of the strategy or of the calibration under output.folder.
    """
    plan = build_plan(load(strategy, overrides))
    calibration = calibration_path(plan.strategy.output.folder)
    found = audit(plan, predict(plan, device_of(plan.strategy.cluster.gpu, calibration)))
    code = YES if found.holds else NO
    if is_json:
        print_json("audit", code, {"audit": audit_dict(plan, found)})
    else:
        print_audit(plan, found, sys.stdout, is_plain=is_plain or not is_terminal(sys.stdout))
    return code
