"""Command-line arguments, options and output that all commands share."""
