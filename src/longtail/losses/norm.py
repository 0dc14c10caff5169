"""MaxNorm: keep the rows of a classifier inside a ball (Alshammari et al., CVPR 2022; used by GLMC and BCE3S)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def maxnorm_radius(weight: Tensor, thresh: float = 0.1) -> Tensor:
    """The ball's radius, a scalar: min + thresh (max - min) of the row norms of `weight` [C, D] as the stage starts."""
    low, high = weight.norm(dim=1).aminmax()
    return low + thresh * (high - low)


@torch.no_grad()
def project_rows_(weight: Tensor, radius: Tensor | float) -> None:
    """Scale, in place, each row of `weight` [C, D] that is longer than `radius` back to it."""
    norms = weight.norm(dim=1, keepdim=True)
    weight.mul_((radius / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1))
