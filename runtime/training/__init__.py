"""The model of a rank, its DeepSpeed engine, and the training step."""
