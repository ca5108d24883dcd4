"""Stated figures (`claims`) beside derived ones, with a verdict."""
