"""Rank arithmetic: grids, which stage owns which ranks, which rank sends to which between stages."""
