"""Checks of hosts, GPUs and links before a training."""
