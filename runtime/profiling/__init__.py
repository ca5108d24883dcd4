"""Time of a step by phase, on hosts and on GPU streams."""
