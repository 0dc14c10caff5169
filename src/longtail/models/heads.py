"""What methods put on a backbone. Features come in as float32 [B, D]; `dim` is D, `classes` is C.

A classifier has a learned `weight` [C, D], a `bias` [C] or None, and `rows` [C, D]: the weight as its scores use it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearClassifier(nn.Linear):
    """Scores x.w_c + b_c. Rows start from Kaiming's normal distribution (as in LDAM and GLMC), biases from zero."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)

    @property
    def rows(self) -> Tensor:
        return self.weight


class CosineClassifier(nn.Module):
    """Scores `scale` * cos(x, w_c), between -`scale` and `scale`."""

    bias = None

    def __init__(self, dim: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(_random_unit_rows(classes, dim))
        self.scale = scale

    @property
    def rows(self) -> Tensor:
        return F.normalize(self.weight)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(_random_unit_rows(*self.weight.shape))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] -> scores [B, C]."""
        return self.scale * F.linear(F.normalize(features), self.rows)


class UnitRowClassifier(nn.Module):
    """Scores x.w_c / ||w_c|| + b_c: rows of unit length, features as they are (BCE3S, AAAI 2026)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_random_unit_rows(classes, dim))
        self.bias = nn.Parameter(torch.zeros(classes))

    @property
    def rows(self) -> Tensor:
        return F.normalize(self.weight)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(_random_unit_rows(*self.weight.shape))
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] -> scores [B, C]."""
        return F.linear(features, self.rows, self.bias)


Classifier = LinearClassifier | UnitRowClassifier | CosineClassifier


ClassifierName = Literal["linear", "unit_row", "cosine"]


def build_classifier(name: ClassifierName, dim: int, classes: int, scale: float) -> Classifier:
    """A classifier by name; `scale` is of cosine scores."""
    if name == "cosine":
        return CosineClassifier(dim, classes, scale)
    return LinearClassifier(dim, classes) if name == "linear" else UnitRowClassifier(dim, classes)


def mlp(dim_in: int, hidden: int, dim_out: int, norm: bool) -> nn.Sequential:
    """A projector: two linear layers with a ReLU between, and batch normalisation before the ReLU if `norm`."""
    middle = [nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Linear(dim_in, hidden), *middle, nn.Linear(hidden, dim_out))


def _random_unit_rows(rows: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(rows, dim))
