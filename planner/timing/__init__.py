"""Seconds: collectives, GEMMs, layers, stages, the pipeline, the optimizer."""
