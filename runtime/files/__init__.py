"""Atomic and append-only files."""
