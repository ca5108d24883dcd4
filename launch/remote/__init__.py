"""What runs on other hosts: standard library only."""
