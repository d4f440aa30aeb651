"""Benchmarks of the LM Evaluation Harness (EleutherAI, package lm-eval) on a policy in memory."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from robustalign.config import HarnessConfig
from robustalign.errors import ConfigError, choices

COLUMNS = ("task", "metric", "value", "stderr", "n")
KEY = "evaluation.harness.tasks"
RESAMPLES = 1000  # of the harness's bootstrap, for metrics without a closed standard error


def check_harness(config: HarnessConfig) -> None:
    """Refuse tasks that cannot be run here.

    Raises:
        ConfigError: the package is not there, or has no such task.
    """
    if not config.tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(KEY, "needs the package lm-eval: pip install 'robustalign[leaderboard]'")
    tasks = _manager(config.include)
    unknown = [name for name in config.tasks if name not in tasks.all_tasks]
    if unknown:
        own = config.include and f"; those of {config.include} are: {choices(_own(config))}"
        raise ConfigError(KEY, f"the harness has no {choices(unknown)}{own or ''}; lm-eval ls tasks lists all")


def run_harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: HarnessConfig) -> pd.DataFrame:
    """One row for each task and metric, with ``COLUMNS``; groups of tasks have a row too.

    ``stderr``: as the harness gives it, NaN where it gives none; ``n``: questions.

    Raises:
        ConfigError: the data of a task are not here.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    wrapped = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=config.batch_size, trust_remote_code=False,
        max_length=config.max_length,
    )  # fmt: skip
    try:
        with _quiet():
            answer = simple_evaluate(
                model=wrapped,
                tasks=list(config.tasks),
                task_manager=_manager(config.include),
                num_fewshot=config.fewshot,
                limit=config.limit,
                apply_chat_template=config.chat,
                fewshot_as_multiturn=config.chat,
                bootstrap_iters=RESAMPLES,
                log_samples=False,
            )
    except (OSError, ValueError, ConnectionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(KEY, f"cannot run {choices(config.tasks)}: {first}") from error
    assert answer is not None
    return pd.DataFrame(_rows(answer), columns=list(COLUMNS))


def settings(config: HarnessConfig) -> dict[str, Any]:
    """What the numbers depend on beside the model: the harness's version and how it is asked."""
    return {"lm_eval": version("lm-eval"), **vars(config)}


def command(config: HarnessConfig) -> str:
    """The harness's own command that asks the same of a saved policy."""
    words = ["lm_eval --model hf --model_args pretrained=FOLDER", f"--tasks {','.join(config.tasks)}"]
    words += [f"--include_path {config.include}"] if config.include else []
    words += [f"--num_fewshot {config.fewshot}"] if config.fewshot is not None else []
    words += [f"--limit {config.limit}"] if config.limit is not None else []
    words += ["--apply_chat_template --fewshot_as_multiturn"] if config.chat else []
    return " ".join([*words, f"--batch_size {config.batch_size}"])


def _rows(answer: Mapping[str, Any]) -> list[tuple[str, str, float, float, int]]:
    rows = []
    for task, values in {**answer["results"], **answer.get("groups", {})}.items():
        counts = answer.get("n-samples", {}).get(task, {})
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{kind}")
            stderr = float(error) if isinstance(error, int | float) else float("nan")
            name = metric if kind == "none" else f"{metric}, {kind}"
            rows.append((task, name, float(value), stderr, int(counts.get("effective", 0))))
    return rows


@cache
def _manager(include: str | None) -> Any:
    """The harness's index of tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include)


def _own(config: HarnessConfig) -> list[str]:
    from lm_eval.tasks import TaskManager

    return sorted(TaskManager(include_path=config.include, include_defaults=False).all_tasks)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's bars and tables where nobody watches a terminal."""
    if os.isatty(2):
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
