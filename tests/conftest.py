"""Settings that every test shares: few threads, no progress from libraries, no colour."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["NO_COLOR"] = "1"
# Ranks are forked from a parent that has computed: with a GPU in sight, autograd would have threads by then,
# which do not live on in a fork.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# An operator's variables would change the plans under test.
for name in ("EMBEDDING_GPUS", "EXPERT_GPUS", "AGGREGATION_GPUS", "MAX_MEMORY_PER_GPU", "MEMORY_FRACTION"):
    os.environ.pop(name, None)
