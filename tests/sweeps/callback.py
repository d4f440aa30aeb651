"""A Hydra callback that writes down what it is told."""

from __future__ import annotations

import os
from typing import Any

from hydra.experimental.callback import Callback


class Diary(Callback):
    def __init__(self, file: str) -> None:
        self.file, self.began = file, False

    def _write(self, text: str) -> None:
        with open(self.file, "a") as file:
            file.write(f"{text}\n")

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        self.began = True
        self._write("sweep starts")

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        self._write(f"sweep ends {self.began}")

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        self._write(f"{config.seed} starts")

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        self._write(f"{config.seed} {job_return.status.name} {os.path.isdir(job_return.working_dir)}")
