"""Names of the files of a run that its ranks write and that monitor, report and supervisor read."""

STEPS_NAME, EXPERTS_NAME, RANKS_NAME, TRACE_NAME = (
    "telemetry.jsonl",
    "experts.jsonl",
    "ranks",
    "timeline.json",
)
