"""Classifiers made of what was learned, without training: tau-normalised rows and nearest class means.

Source: Kang et al., ICLR 2020, section 4.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Literal["raw", "unit", "centred_unit"]
Score = Literal["distance", "product"]


@torch.no_grad()
def tau_normalised(weight: Tensor, tau: float) -> Tensor:
    """Rows of `weight` [C, D] divided by their length to the power of `tau`: 0 leaves them as they are, 1 makes unit rows."""
    return weight / weight.norm(dim=1, keepdim=True) ** tau


def ncm_transform(features: Tensor, mean: Tensor, transform: Transform) -> Tensor:
    """Features [B, D] as nearest class means compares them: "raw", of "unit" length, or less `mean` [D] first."""
    if transform == "raw":
        return features
    return F.normalize(features - mean if transform == "centred_unit" else features)


def ncm_scores(features: Tensor, centres: Tensor, score: Score) -> Tensor:
    """Transformed features [B, D] against class centres [C, D]: minus the squared distance, or the product over D."""
    product = features @ centres.T
    if score == "product":
        return product / features.shape[1]
    return 2 * product - features.square().sum(1, keepdim=True) - centres.square().sum(1)
