"""Program of a rank: train.py, and a bit of a weight flips on rank 1 at the beginning of step 5, once.

deepspeed … tests/support/flipped_train.py --strategy FILE: it stands beside the product, and no strategy
reaches it.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "model.model.norm.weight"
STEP = 5


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    from runtime.training.trainer import StepReport, Trainer

    train_step = Trainer.train_step

    def flip_and_train(trainer: Trainer, step: int) -> StepReport:
        mark = Path(os.environ["FLIPPED_MARK"])
        if step == STEP and os.environ["RANK"] == "1" and not mark.exists():
            mark.touch()
            weight: Any = dict(trainer.engine.module.named_parameters())[NAME]
            weight.data.view(torch.int32)[7] ^= 1 << 20
        return train_step(trainer, step)

    setattr(Trainer, "train_step", flip_and_train)  # noqa: B010
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
