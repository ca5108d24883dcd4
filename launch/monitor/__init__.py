"""Watching a run: what its files say now, as a terminal view, an object of JSON, or OpenMetrics."""
