"""ArmoRM (Wang et al. 2024, arXiv 2406.12845; RLHFlow/ArmoRM-Llama3-8B-v0.1), read from its safetensors.

Layout of the published checkpoint: ``model.*`` is a Llama backbone without an output layer; ``regression_layer.weight``
``[19, D]`` maps the last token's hidden state to one reward an objective; ``gating.layers.{i}.{weight,bias}`` is a
network with ReLU between its layers, which maps the hidden state at the end of the prompt to 19 logits;
``gating.logit_scale`` ``[1]``; ``reward_transform_matrix`` ``[19, 19]`` removes the rewards' correlation with length.
The score is sum_k g_k (r T)_k with g = softmax(logits / temperature) logit_scale. ``config.json`` has
``num_objectives`` (19) and ``gating_temperature`` (10).

No remote code is run. The attention mask is given, so padding changes nothing, and long texts keep their start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from robustalign.bounds import OneOf
from robustalign.rewards import Device, Scorer, Size
from robustalign.rewards.classifier import batches

OBJECTIVES = (
    "helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity",
    "helpsteer-verbosity", "ultrafeedback-overall_score", "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness", "ultrafeedback-honesty", "ultrafeedback-helpfulness", "beavertails-is_safe",
    "prometheus-score", "argilla-overall_quality", "argilla-judge_lm", "code-complexity", "code-style",
    "code-explanation", "code-instruction-following", "code-readability",
)  # fmt: skip
SCORE = "score"  # the gated sum of all


def build(
    assets: Path,
    path: str,
    objective: Annotated[str, OneOf((*OBJECTIVES, SCORE))] = SCORE,
    max_length: Size = 4096,
    batch_size: Size = 8,
    device: Device = "cpu",
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32",
) -> Scorer:
    """A scorer of one of the 19 objectives, or of the gated ``score``; raw values.

    Args:
        path: folder with ``config.json``, safetensors and a tokenizer with Llama 3's chat template, such as a download
            of RLHFlow/ArmoRM-Llama3-8B-v0.1.
        objective: one of ``OBJECTIVES``, or ``score``.
        max_length: tokens; longer texts keep their start.
        batch_size: texts a forward.
        device: cpu or cuda.
        dtype: of the backbone, float32 or bfloat16.

    Raises:
        ValueError: ``option: problem`` of an option that cannot be.
    """
    if not (Path(path).expanduser() / "config.json").is_file():
        raise ValueError(f"path: no checkpoint in {path!r}; download RLHFlow/ArmoRM-Llama3-8B-v0.1 into it")

    def score(prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        model, tokenizer = loaded(str(Path(path).expanduser()), device, dtype)
        values = np.zeros(len(replies))
        for rows, inputs in batches(tokenizer, prompts, replies, "chat", max_length, batch_size):
            with torch.no_grad():
                rewards, total = model(**inputs.to(device))
            column = total if objective == SCORE else rewards[:, OBJECTIVES.index(objective)]
            values[rows] = column.double().cpu().numpy()
        return values

    return Scorer(score)


class ArmoRM(nn.Module):
    """The backbone with its heads."""

    def __init__(self, config: LlamaConfig, hidden: Sequence[int], border: Sequence[int]) -> None:
        """``hidden``: widths of the gating network's inner layers; ``border``: the tokens before a reply."""
        super().__init__()
        objectives = config.to_dict().get("num_objectives", len(OBJECTIVES))
        self.temperature = float(config.to_dict().get("gating_temperature", 10))
        self.border = list(border)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives), requires_grad=False)
        widths = [config.hidden_size, *hidden, objectives]
        self.gating = nn.Module()
        self.gating.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.gating.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """Rewards ``[B, objectives]`` and gated scores ``[B]`` of conversations ``[B, T]``."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rows = torch.arange(len(input_ids), device=input_ids.device)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (attention_mask * positions).argmax(1)
        ends = torch.tensor([self._end_of_prompt(ids.tolist()) for ids in input_ids], device=input_ids.device)
        rewards = self.regression_layer(hidden[rows, last]).float()
        gates = self._gates(hidden[rows, ends]).float()
        return rewards, (gates * (rewards @ self.reward_transform_matrix.float())).sum(1)

    def _gates(self, hidden: Tensor) -> Tensor:
        *inner, outer = self.gating.layers  # type: ignore[misc]
        for layer in inner:
            hidden = layer(hidden).relu()
        return (outer(hidden) / self.temperature).softmax(1) * self.gating.logit_scale

    def _end_of_prompt(self, ids: Sequence[int]) -> int:
        """Where the border between prompt and reply begins, the last one in a conversation."""
        width = len(self.border)
        starts = (j for j in range(len(ids) - width, -1, -1) if list(ids[j : j + width]) == self.border)
        start = next(starts, None)
        if start is None:
            raise ValueError("max_length: a prompt fills it, so that no reply begins; raise it")
        return start


@cache
def loaded(path: str, device: str, dtype: str) -> tuple[ArmoRM, Any]:
    """The model and its tokenizer, once a process.

    Raises:
        ValueError: weights that are missing or of another layout.
    """
    folder = Path(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, truncation_side="right")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = LlamaConfig.from_dict(json.loads((folder / "config.json").read_text()))
    weights = {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
    inner = sorted(name for name in weights if name.startswith("gating.layers.") and name.endswith(".weight"))
    if not inner or "regression_layer.weight" not in weights:
        raise ValueError(f"path: {path!r} holds no ArmoRM: its safetensors have no gating and regression layers")
    model = ArmoRM(config, [len(weights[name]) for name in inner[:-1]], _border(tokenizer))
    missing, unknown = model.load_state_dict(weights, strict=False)
    if missing or unknown:
        raise ValueError(f"path: {path!r} is of another layout; missing {missing[:3]}, unknown {unknown[:3]}")
    return model.to(torch.device(device), getattr(torch, dtype)).eval(), tokenizer


def _border(tokenizer: Any) -> list[int]:
    """The tokens between a prompt and its reply: the end of the user's turn and the head of the assistant's."""
    turns = [{"role": "user", "content": "x"}]
    without = tokenizer.apply_chat_template(turns, tokenize=False)
    ahead = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    head = tokenizer(ahead[len(without) :], add_special_tokens=False)["input_ids"]
    end = tokenizer(without, add_special_tokens=False)["input_ids"][-1:]
    return [*end, *head]
