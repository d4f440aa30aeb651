"""What a process that computes sets up once: threads, and libraries that are silent."""

from __future__ import annotations

import os

import torch

from robustalign.config import Config


def prepare_process(config: Config) -> None:
    """Threads and warnings of a worker process."""
    threads = config.trainer.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else a launcher of several ranks chooses anew
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
