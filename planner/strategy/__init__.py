"""The schema of a strategy: every section and key, its type, bounds and default."""
