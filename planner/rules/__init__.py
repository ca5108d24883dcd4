"""What a strategy must satisfy beyond the form of its keys."""
