"""The commands of `python -m launch`, one module each."""
