"""Where a classifier starts from, on the features of a trained backbone: class means, a linear discriminant, or text.

LIFT (Shi et al., ICML 2024) starts from class means or text features; its release gives the rows unit length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import UsageError

# Share of the within-class covariance that is replaced by as large a multiple of the identity: a class of a few dozen
# images says little of how 1,000 features vary together.
SHRINKAGE = 0.5


class ClassStatistics:
    """Sums over labelled features, in float64, from which the class means and their common covariance follow."""

    def __init__(self, classes: int, dim: int, device: torch.device | str = "cpu") -> None:
        options: Any = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros(classes, **options)
        self.sum = torch.zeros(classes, dim, **options)
        self.squares = torch.zeros(dim, dim, **options)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Features [B, D], labels int64 [B]."""
        features = features.double()
        self.count.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        self.sum.index_add_(0, labels, features)
        self.squares += features.T @ features

    def reduce(self) -> None:
        """Add up what the processes of a distributed run have seen."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for total in (self.count, self.sum, self.squares):
                torch.distributed.all_reduce(total)

    @property
    def means(self) -> Tensor:
        """float64 [C, D]. A class without an image gets zeros."""
        return self.sum / self.count.clamp(min=1)[:, None]

    @property
    def covariance(self) -> Tensor:
        """Within the classes, pooled: float64 [D, D]."""
        means = self.means
        return (self.squares - means.T @ (means * self.count[:, None])) / self.count.sum()


def class_mean_rows(statistics: ClassStatistics) -> Tensor:
    """The mean feature of each class at unit length, float32 [C, D]."""
    return normalize(statistics.means).float()


def discriminant(statistics: ClassStatistics, shrinkage: float = SHRINKAGE) -> tuple[Tensor, Tensor]:
    """Rows float32 [C, D] and biases [C] of linear discriminant analysis for classes of equal share.

    With the classes' common covariance S: S^-1 mean_c, and -mean_c S^-1 mean_c / 2 (Hastie et al., section 4.3).
    """
    means, covariance = statistics.means, statistics.covariance
    level = covariance.diagonal().mean().clamp(min=1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance)).to(covariance)
    rows = torch.linalg.solve(covariance, means.T).T
    return rows.float(), (-(rows * means).sum(1) / 2).float()


def text_rows(text: Tensor, projection: Tensor | None = None) -> Tensor:
    """Rows float32 [C, D] from text features [C, T]: at unit length, taken back through the visual `projection` [D, T] of
    a model with a text tower where there is one, and at unit length again."""
    rows = normalize(text)
    return normalize(rows @ projection.T if projection is not None else rows)


def read_text_rows(path: Path, class_names: tuple[str, ...], dim: int) -> Tensor:
    """The rows that an npz file describes: `text_features` [C, T], `class_names` [C], and `visual_projection` [D, T]
    where T is not the backbone's D. Raises `UsageError` where they are not of these classes or this backbone."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {path} as an npz file: {error}.") from error
    if absent := {"text_features", "class_names"} - content.keys():
        raise UsageError(f"{path} has no array '{min(absent)}'; it has {', '.join(content) or 'none'}.")
    place = {str(name): i for i, name in enumerate(content["class_names"])}
    if unknown := [name for name in class_names if name not in place]:
        raise UsageError(f"{path} has no text features of class '{unknown[0]}' ({len(unknown)} are missing).")
    text = torch.from_numpy(content["text_features"][[place[name] for name in class_names]]).float()
    projection = content.get("visual_projection")
    rows = text_rows(text, None if projection is None else torch.from_numpy(projection).float())
    if rows.shape[1] != dim:
        raise UsageError(
            f"The rows from {path} have {rows.shape[1]} values, the backbone's features {dim}: expected text_features "
            f"[C, T] with visual_projection [{dim}, T], or [C, {dim}] alone."
        )
    return rows


def start_classifier(
    classifier: Any, kind: str, statistics: ClassStatistics | None, rows: Tensor | None = None
) -> None:
    """Set a classifier's `weight` [C, D] and `bias` by `kind`: zero, class_means, discriminant, or text with its `rows`."""
    bias = torch.zeros(len(classifier.weight))
    if kind == "zero":
        rows = torch.zeros_like(classifier.weight)
    elif statistics is not None:
        if kind == "discriminant":
            rows, bias = discriminant(statistics)
        else:
            rows = class_mean_rows(statistics)
    assert rows is not None
    with torch.no_grad():
        classifier.weight.copy_(rows)
        if classifier.bias is not None:
            classifier.bias.copy_(bias)
