"""Programs that measure this machine; each prints a table."""
