"""Exact counts: parameters, FLOPs, activation bytes, the rows that reach a rank's experts."""
