"""Programs that run on other hosts: standard library only."""
