"""Log-probabilities in the logits' memory against torch's cross-entropy, through both derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustalign.policies import vocabulary
from robustalign.policies.vocabulary import target_logps


def plain(logits: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(logits, targets, reduction="none")


def problem(rows: int = 9, words: int = 11, scale: float = 3.0, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, words, dtype=dtype) * scale
    return hidden.requires_grad_(), torch.randint(0, words, (rows,)), torch.randn(rows, dtype=dtype)


@pytest.mark.parametrize("block", [1, 25, 1 << 20])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_values_and_gradients_are_cross_entropys(monkeypatch, block: int, dtype, rtol: float) -> None:
    monkeypatch.setattr(vocabulary, "CACHED", block)
    hidden, targets, upstream = problem(dtype=dtype)
    found, expected = target_logps(hidden * 1, targets), plain(hidden * 1, targets)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(
        torch.autograd.grad(found, hidden, upstream), torch.autograd.grad(expected, hidden, upstream), rtol=rtol,
        atol=rtol,
    )  # fmt: skip


def test_second_derivatives_are_cross_entropys() -> None:
    def through(logps) -> list[Tensor]:
        hidden, targets, upstream = problem()
        upstream.requires_grad_()
        values = logps(torch.tanh(hidden) * 2, targets)
        (first,) = torch.autograd.grad((upstream * values.square()).sum(), hidden, create_graph=True)
        return [first, *torch.autograd.grad(first.pow(3).sum(), (hidden, upstream))]

    for found, expected in zip(through(target_logps), through(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    found = target_logps(logits * 1, torch.tensor([1, 2]))
    assert found.tolist() == pytest.approx([-2e4, -1.0986123], rel=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0, 0.0], [-1 / 3, -1 / 3, 2 / 3]]))


def test_a_backward_that_would_read_what_another_has_overwritten_is_an_error() -> None:
    hidden, targets, upstream = problem()
    found = target_logps(hidden * 1, targets)
    found.backward(upstream, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward(upstream)
