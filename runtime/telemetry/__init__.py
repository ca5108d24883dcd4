"""What is recorded and shown of each step: JSON lines, progress, loss curve, timeline."""
