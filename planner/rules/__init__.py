"""Rules that relate the keys of a strategy to each other; features that are not implemented yet."""
