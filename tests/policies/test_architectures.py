"""Our log-probabilities and gradients are those of a plain forward, whatever the architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policies.architectures import look, table, types

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
QUICK = {
    "llama": True, "qwen3": True, "gemma3_text": False, "mistral": False, "gpt2": True, "gpt_neox": True, "opt": True,
    "phi": True, "falcon": True, "mixtral": True, "mamba": False, "jamba": False, "gpt_neo": False, "bloom": False,
}  # fmt: skip
"""A dozen types, and whether their rows are packed."""


@pytest.mark.parametrize("kind", QUICK)
def test_a_dozen_types(kind: str) -> None:
    found = look(kind)
    assert not found.problem
    assert found.packed == QUICK[kind], found.why
    assert {"dpo", "kldpo", "wdpo moved"} <= set(found.methods) and not found.note


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_type_and_the_page_that_says_so() -> None:
    """No type may be wrong; the page is written anew."""
    findings = [look(kind) for kind in types()]
    PAGE.write_text(table(findings))
    assert {one.kind: one.problem for one in findings if one.problem.startswith("wrong")} == {}
    assert sum(not one.problem for one in findings) > len(findings) / 2
