"""Version of this project; that of pyproject.toml."""

VERSION = "0.1.0"
