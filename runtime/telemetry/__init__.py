"""Records and views of each step: JSON lines, progress, loss curve, timeline."""
