"""Learning-rate schedule: linear warm-up, cosine decay to the minimum, then the minimum."""

import math

from planner.strategy.training import Training


def learning_rate(step: int, training: Training, horizon: int) -> float:
    """Rate of the update that makes step `step` (the first is 1).

    Args:
        horizon: the step at which the cosine reaches `min_learning_rate`; later steps stay there.
    """
    peak, floor, warmup = training.learning_rate, training.min_learning_rate, training.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if step >= horizon:
        return floor
    progress = (step - warmup) / (horizon - warmup)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
