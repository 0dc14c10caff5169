"""ProCo (Du et al., TPAMI 2024): contrast with all the samples that a von Mises-Fisher distribution of each class could give."""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import all_gather_with_grad
from .precision import full_precision

KAPPA_MAX = 1e5
TERMS = 6  # of the expansion: an error below 1e-7 for vectors of 16 dimensions, smaller for more


def _expansion() -> tuple[tuple[float, ...], ...]:
    """The polynomials u_0 ... u_6 of DLMF 10.41.9, coefficients of t^0, t^1, ..., each from the one before."""
    polynomials = [[Fraction(1)]]
    for _ in range(TERMS):
        before, after = polynomials[-1], [Fraction(0)] * (len(polynomials[-1]) + 3)
        for power, coefficient in enumerate(before):
            after[power + 1] += coefficient * power / 2 + coefficient / (8 * (power + 1))
            after[power + 3] -= coefficient * power / 2 + 5 * coefficient / (8 * (power + 3))
        polynomials.append(after)
    return tuple(tuple(map(float, polynomial)) for polynomial in polynomials)


EXPANSION = _expansion()


@torch.no_grad()
def update_means(means: Tensor, amounts: Tensor, features: Tensor, labels: Tensor) -> None:
    """Add a batch, in place, to the running mean [C, D] of each class, of `amounts` [C] samples.

    `features`: float [B, D], unit vectors. `labels`: int64 [B]. Under `torch.distributed` the batch is that of all processes.
    """
    features, labels = all_gather_with_grad(features), all_gather_with_grad(labels)
    member = (labels == torch.arange(len(means), device=labels.device)[:, None]).to(means.dtype)
    count = member.sum(1)
    amounts += count
    means += (member @ features.to(means.dtype) - count[:, None] * means) / amounts.clamp(min=1)[:, None]


def concentration(means: Tensor) -> Tensor:
    """kappa [C] of the distributions whose `means` are float [C, D]: D R / (1 - R^2) with R the mean's length, at most 1e5."""
    length = means.norm(dim=1).clamp(max=1)
    return (means.shape[1] * length / (1 - length.square())).clamp(max=KAPPA_MAX)


@full_precision
def proco_logits(features: Tensor, means: Tensor, tau: float) -> Tensor:
    """log of the mean of exp(z . x / tau) over the samples x of each class's distribution, float [B, C].

    `features` z: float [B, D], unit vectors, D >= 16. `means`: float [C, D], which get no gradient. The value is log C(k') -
    log C(k) with k = `concentration`, k' = ||k unit(mean) + z / tau|| and log C(k) = log I_v(k) - v log k, v = D/2 - 1
    (eq. 13). I_v is its uniform asymptotic expansion (DLMF 10.41.3), and the two logarithms are subtracted term by term, so
    that float32 keeps its digits where they are large: the release's recurrence is off by 0.5 at k = 1e4 and 2.8 at 1e5.

    >>> proco_logits(torch.eye(2, 8), 0.9 * torch.eye(2, 8), tau=0.5).argmax(1)
    tensor([0, 1])
    """
    means = means.detach()
    order, kappa = means.shape[1] / 2 - 1, concentration(means)
    # With s = sqrt(1 + (k / v)^2) the expansion is v (s - log(1 + s)) - log(s) / 2 + log(sum of u_j(1 / s) / v^j).
    before = (1 + (kappa / order).square()).sqrt()
    similarity = features @ (kappa[:, None] * F.normalize(means)).T
    gain = (2 * similarity + features.square().sum(1, keepdim=True) / tau) / (tau * order**2)  # of s^2
    after = (before.square() + gain).sqrt()
    step = gain / (after + before)
    leading = order * (step - (step / (1 + before)).log1p()) - (step / before).log1p() / 2
    return leading + _series(after, order) - _series(before, order)


def _series(s: Tensor, order: float) -> Tensor:
    """log of the sum over j of u_j(1 / s) / order^j."""
    t, total = 1 / s, torch.zeros_like(s)
    for power in reversed(range(3 * TERMS + 1)):
        total = total * t + sum(u[power] / order**j for j, u in enumerate(EXPANSION) if power < len(u))
    return total.log()
