"""Supervised training: starts attempts, judges how they end, and replaces what failed."""
