"""Measured exchanges of a preflight: collectives of a plan, P2P bandwidth of its links."""
