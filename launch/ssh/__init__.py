"""The one place that runs ssh: OpenSSH itself, with argument lists."""
