"""The worst case over a Wasserstein ball around embedded pairs, bracketed by an ascent and its first-order term."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from robustalign.objectives import SigmoidLoss, WassersteinBall
from robustalign.policies.logprobs import Rows, sequence_logps, unwrapped


def wasserstein_bracket(
    model: nn.Module,
    rows: Rows,
    reference: Tensor,
    *,
    beta: float,
    radii: Sequence[float],
    steps: int = 10,
    prompt: str = "joint",
) -> pd.DataFrame:
    """The worst case over a Wasserstein ball around embedded pairs, from below and to first order.

    ``low`` is the loss at displaced inputs that a projected gradient ascent found: a law in the ball, so a true lower
    bound of the supremum over continuous embeddings. ``first_order`` is E[l] + rho sqrt(E||g||^2) (arXiv 2502.01930,
    Eq. 7): what WDPO trains on. It is exact as the radius goes to 0 and no bound beyond: where the loss curves upwards
    ``low`` passes it. Neither is a certificate over texts, as embeddings between those of tokens are nobody's words.

    Args:
        model: the policy; all rows go through it at once.
        rows: ``2B`` rows, the chosen completions of ``B`` pairs and then their rejected ones.
        reference: ``[2B]`` reference log-probabilities, nats.
        beta: DPO's.
        radii: displacement's rms over the embeddings' rms (``WassersteinBall``'s unit ``relative``).
        steps: of the ascent, from the first-order worst case.
        prompt: ``joint`` or ``per_sequence``, as in ``WassersteinBall``.

    Returns:
        Columns ``radius``, ``nominal``, ``low``, ``first_order`` (nats) and ``n``, the pairs.
    """
    embeddings = unwrapped(model).get_input_embeddings()(rows.ids).detach()
    table = []
    for radius in radii:
        ball = WassersteinBall(radius=radius, prompt=prompt)
        ascent = _Ascent(model, rows, reference.to(embeddings), beta, ball, embeddings)
        nominal, gradient = ascent.at(torch.zeros_like(embeddings))
        stats = ball.statistics(gradient, embeddings, rows.attention, rows.prompt)
        best, offset = nominal, torch.zeros_like(embeddings)
        for _ in range(steps if radius > 0 else 0):
            offset = ascent.projected(offset + ascent.projected(gradient))
            value, gradient = ascent.at(offset)
            best = max(best, value)
        table.append((radius, nominal, best, nominal + float(ball.penalty(stats)), len(rows.ids) // 2))
    return pd.DataFrame(table, columns=["radius", "nominal", "low", "first_order", "n"])


class _Ascent:
    """Loss and input gradient at displaced inputs, and the projection of a displacement to the radius."""

    def __init__(
        self, model: nn.Module, rows: Rows, reference: Tensor, beta: float, ball: WassersteinBall, embeddings: Tensor
    ) -> None:
        self.model, self.rows, self.reference, self.loss = model, rows, reference, SigmoidLoss(beta=beta)
        self.ball, self.embeddings = ball, embeddings

    def at(self, offset: Tensor) -> tuple[float, Tensor]:
        """The mean loss, and the gradient of each pair's loss ``[2B, T, D]``."""
        moved = offset.detach().requires_grad_()
        chosen, rejected = (sequence_logps(self.model, self.rows, moved) - self.reference).chunk(2)
        losses = self.loss.losses(chosen - rejected)
        (gradient,) = torch.autograd.grad(losses.sum(), moved)
        return float(losses.detach().mean()), self.ball.joint(gradient, self.rows.prompt)

    def projected(self, direction: Tensor) -> Tensor:
        """The displacement along ``direction`` with mean square radius^2 over pairs; 0 where the direction is 0."""
        stats = self.ball.statistics(direction, self.embeddings, self.rows.attention, self.rows.prompt)
        size = float((stats.gradient_square / stats.pairs).sqrt())
        return direction * (float(self.ball.absolute_radius(stats)) / size) if size > 0 else torch.zeros_like(direction)
