"""Benchmarks: the harness's numbers are those of a plain loop over the questions, on the policy in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustalign.config import HarnessConfig
from robustalign.errors import ConfigError
from robustalign.evaluation.harness import check_harness, command, run_harness, settings
from robustalign.policies.load import asset_folder, load_model, load_tokenizer
from tests.conftest import QUESTIONS, compose_config

pytest.importorskip("lm_eval")


def test_accuracy_is_that_of_a_plain_loop(tasks: Path) -> None:
    path = asset_folder("chitchat_tiny")
    model, tokenizer = load_model(path, compose_config().model), load_tokenizer(path)
    right = []
    for text, options, answer in QUESTIONS:
        values = []
        for option in options:
            both, start = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text + option, text))
            logps = torch.log_softmax(model(input_ids=torch.tensor([both])).logits[0].float(), -1)
            values.append(sum(float(logps[i - 1, both[i]]) for i in range(len(start), len(both))))
        right.append(int(np.argmax(values)) == answer)
    table = run_harness(model, tokenizer, HarnessConfig(tasks=["small_talk"], include=str(tasks), batch_size=3))
    (row,) = table.to_dict("records")
    assert (row["task"], row["metric"], row["n"]) == ("small_talk", "acc", 4)
    assert row["value"] == pytest.approx(np.mean(right))
    assert row["stderr"] == pytest.approx(np.std(right, ddof=1) / 2)
    fewer = run_harness(model, tokenizer, HarnessConfig(tasks=["small_talk"], include=str(tasks), limit=2))
    assert fewer["n"].tolist() == [2] and fewer["value"].tolist() == [np.mean(right[:2])]


def test_a_task_that_is_not_there_is_one_line(tasks: Path) -> None:
    check_harness(HarnessConfig())
    with pytest.raises(
        ConfigError, match=r"evaluation\.harness\.tasks: the harness has no smalltalk; .* are: small_talk"
    ):
        check_harness(HarnessConfig(tasks=["smalltalk"], include=str(tasks)))
    with pytest.raises(ConfigError, match=r"evaluation\.harness\.include: no folder"):
        compose_config(f"evaluation.harness.include={tasks / 'none'}")


def test_the_command_and_the_version_are_told() -> None:
    config = HarnessConfig(tasks=["leaderboard"], limit=5, chat=True)
    assert command(config) == (
        "lm_eval --model hf --model_args pretrained=FOLDER --tasks leaderboard --limit 5 "
        "--apply_chat_template --fewshot_as_multiturn --batch_size 8"
    )
    assert settings(config)["lm_eval"].startswith("0.")
