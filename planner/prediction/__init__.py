"""Predicted step: throughput, phases, limits, load balance, the assumptions it rests on."""
