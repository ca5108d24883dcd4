"""Drills: faults on purpose, in runs on hosts made for them, and whether the runs are none the worse."""
