"""Variables that torch, DeepSpeed and OpenMP read when they are loaded, and that a launch has not set."""

import os


def set_library_environment(*, is_cpu: bool) -> None:
    """Before any of them is imported."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # torch's flight recorder: of a rank that stands still it says in which collective. It writes no files.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "64")
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if is_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        # torch's tensors of 2 MiB and more in huge pages, where the system lets programs ask for them:
        # otherwise it clears a page of 4 KiB at a time whenever a large gradient is made.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
