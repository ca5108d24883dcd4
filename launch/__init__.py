"""Acting on a cluster: the commands behind `python -m launch`. Imports no torch."""
