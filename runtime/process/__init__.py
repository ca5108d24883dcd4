"""One process of a launch: its rank, stop signals, the launcher it belongs to. Imports no torch."""
