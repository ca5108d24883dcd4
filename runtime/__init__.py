"""Code that runs inside a rank: groups, engine, steps, data, checkpoints."""
