"""Error codes: one entry per code with title, cause, example and fix; grouped by hundreds."""
