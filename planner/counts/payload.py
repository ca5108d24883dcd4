"""Bytes of vectors on their way to other ranks: in the activations' dtype, or as e4m3 with a scale a row."""

from planner.strategy.schema import Strategy

SCALE_BYTES = 4  # of each row (model/e4m3.py)


def payload_bytes(strategy: Strategy, num_elements: int, num_rows: int) -> int:
    """Of `num_rows` rows with so many elements in all (runtime.fp8_payload)."""
    if strategy.runtime.fp8_payload:
        return num_elements + SCALE_BYTES * num_rows
    return num_elements * strategy.training.element_bytes
