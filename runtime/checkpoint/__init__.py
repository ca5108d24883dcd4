"""Checkpoints in safetensors that any layout reads; committed atomically."""
