"""How features and classifier lie to each other: what BCE3S claims to improve, and neural collapse.

BCE3S (AAAI 2026) names the properties: intra-class compactness, inter-class separability, and a classifier whose rows
are evenly spread. The paper gives no formula, so the measures here are the plain cosine ones, defined in `geometry`.
NC1 to NC4 are those of Papyan, Han and Donoho (PNAS 2020), with each class weighing the same however many images it
has. A classifier whose rare classes' rows close up is the minority collapse of Fang et al. (PNAS 2021): hence row
angles within each shot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..classes import SHOTS
from ..errors import LongtailError, UsageError

_CHUNK = 512  # rows of features, or of a pairwise matrix, that are held in float64 at a time


@torch.no_grad()
def geometry(
    batches: Iterable[tuple[Tensor, Tensor]], rows: Tensor, bias: Tensor | None, shots: Sequence[str]
) -> dict[str, Any]:
    """Measure a set of features against a classifier.

    `batches`: pairs of features float [B, D] and labels int64 [B] in 0..C-1, gone through twice: a list (one pair of
    all features will do), or an object that computes them anew each time. `rows` [C, D] and `bias` [C] or None: the
    classifier, see `models.heads`. `shots`: C of "many", "medium", "few". Everything is computed in float64 on the
    device of `rows`, in memory of O(D^2 + C D) beyond what `batches` holds.

    Returns "all", which holds a number for each name below, "many", "medium" and "few", which hold those marked (s),
    and "per_class", which holds a list of C numbers for each marked (c), and "images". Means over classes weigh each
    class alike and leave out classes without images, whose entries are None. Cosines are 1 at best, angles are in
    degrees.

    - ``compactness`` (s, c): mean cosine of a class's features to their mean.
    - ``separability`` (s, c): 1 minus the mean cosine of a class's mean to those of the other classes.
      ``separability_min`` (s, c): the same to the nearest other class; in "all" and by shot the least of any class.
    - ``alignment`` (s, c): cosine of a class's mean, less the mean of the class means, to the class's row.
    - ``row_angle_mean`` (s, c), ``row_angle_std`` (s), ``row_angle_min`` (s, c): angles between pairs of rows; by
      shot, of pairs within it; per class, with all other rows.
    - ``nc1``: tr(Sw pinv(Sb)) / C, of the covariances within and between classes. 0 when collapsed.
    - ``nc2_norm_cv``, ``nc2_cosine_std``, ``nc2_cosine_gap`` of the centred class means, and the same with ``_rows``
      of the rows: the norms' coefficient of variation, the standard deviation of pairwise cosines, and the mean of
      abs(cosine + 1 / (C - 1)). All 0 for a simplex.
    - ``nc3``: Frobenius distance between rows and centred class means, each matrix divided by its Frobenius norm. 0
      to 2.
    - ``nc4``: share of images for which the classifier and the nearest class mean name the same class.

    Raises `UsageError` if `batches` can be gone through only once or holds fewer than two classes, `LongtailError` if a
    feature is not a finite number.
    """
    if isinstance(batches, Iterator):
        raise UsageError("geometry() goes through its batches twice: pass a list, not an iterator.")
    rows = rows.double()
    bias = rows.new_zeros(len(rows)) if bias is None else bias.double()

    counts, means, compactness = _class_means(batches, rows)
    present = (counts > 0).nonzero()[:, 0]
    classes = len(present)
    if classes < 2:
        raise UsageError(f"Geometry compares classes, and only {classes} of {len(rows)} has an image.")
    centred = means[present] - means[present].mean(0)
    within, agreement = _second_pass(batches, rows, bias, counts, means)
    between = centred.T @ centred / classes
    # Features are float32: directions in which the class means differ by less than its rounding hold no signal.
    nc1 = torch.trace(within @ torch.linalg.pinv(between, rtol=1e-13, hermitian=True)) / classes

    mean_pairs = _pairs(means[present])
    angle_pairs = _pairs(rows, _degrees)
    of_classes = {
        "compactness": compactness[present],
        "separability": 1 - mean_pairs.mean,
        "separability_min": 1 - mean_pairs.high,
        "alignment": F.cosine_similarity(centred, rows[present]),
    }

    def group(members: Tensor, pairs: _Pairs | None) -> dict[str, float | None]:
        """`members`: bool [classes present]; `pairs`: of the rows in the group."""
        values = {name: value[members] for name, value in of_classes.items()}
        return {
            **{name: value.mean().item() if len(value) else None for name, value in values.items()},
            "separability_min": values["separability_min"].min().item() if members.any() else None,
            "row_angle_mean": pairs.mean.mean().item() if pairs else None,
            "row_angle_std": pairs.std if pairs else None,
            "row_angle_min": pairs.low.min().item() if pairs else None,
        }

    result: dict[str, Any] = {"all": group(torch.ones_like(present, dtype=torch.bool), angle_pairs)}
    result["all"] |= {
        "nc1": nc1.item(),
        **_simplex(centred, ""),
        **_simplex(rows, "_rows"),
        "nc3": (rows[present] / rows[present].norm() - centred / centred.norm()).norm().item(),
        "nc4": agreement,
    }
    for shot in SHOTS:
        of_shot = torch.tensor([s == shot for s in shots], device=rows.device)
        result[shot] = group(of_shot[present], _pairs(rows[of_shot], _degrees) if of_shot.sum() > 1 else None)
    result["per_class"] = {
        "images": counts.long().tolist(),
        **{name: _spread_out(value, present, len(rows)) for name, value in of_classes.items()},
        "row_angle_mean": angle_pairs.mean.tolist(),
        "row_angle_min": angle_pairs.low.tolist(),
    }
    return result


def _chunks(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for features, labels in batches:
        for part, part_labels in zip(features.split(_CHUNK), labels.split(_CHUNK), strict=True):
            yield part.to(device, torch.float64), part_labels.to(device)


def _class_means(batches: Iterable[tuple[Tensor, Tensor]], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image counts [C], means [C, D] and compactness [C]; NaN in place of the last two for a class without images.

    The mean cosine to the class mean is the mean of unit features, dotted with the unit class mean: one pass is enough.
    """
    counts = rows.new_zeros(len(rows))
    sums, unit_sums = torch.zeros_like(rows), torch.zeros_like(rows)
    for features, labels in _chunks(batches, rows.device):
        counts.index_add_(0, labels, torch.ones_like(features[:, 0]))
        sums.index_add_(0, labels, features)
        unit_sums.index_add_(0, labels, F.normalize(features))
    if not sums.isfinite().all():
        raise LongtailError("Some features are not finite numbers: the weights have probably diverged.")
    means = sums / counts[:, None]
    return counts, means, (unit_sums * F.normalize(means)).sum(1) / counts


def _second_pass(
    batches: Iterable[tuple[Tensor, Tensor]], rows: Tensor, bias: Tensor, counts: Tensor, means: Tensor
) -> tuple[Tensor, float]:
    """The mean over classes of their covariances [D, D], and how often the nearest class mean is the prediction."""
    within = rows.new_zeros(rows.shape[1], rows.shape[1])
    agreements = rows.new_zeros(())
    centres = means.nan_to_num()
    # |x - m|^2 = |x|^2 - 2 (x.m - |m|^2 / 2): the nearest mean has the largest x.m - |m|^2 / 2.
    offset = torch.where(counts > 0, -centres.square().sum(1) / 2, -torch.inf)
    for features, labels in _chunks(batches, rows.device):
        residual = (features - centres[labels]) / counts[labels, None].sqrt()
        within += residual.T @ residual
        nearest = (features @ centres.T + offset).argmax(1)
        agreements += (nearest == (features @ rows.T + bias).argmax(1)).sum()
    return within / (counts > 0).sum(), (agreements / counts.sum()).item()


@dataclass(frozen=True)
class _Pairs:
    """A measure over pairs of K vectors: its mean and range for each vector [K] over the others, its overall spread."""

    mean: Tensor
    low: Tensor
    high: Tensor
    std: float


def _pairs(vectors: Tensor, measure: Callable[[Tensor], Tensor] = lambda cosine: cosine) -> _Pairs:
    """`measure` of the cosine of each two of `vectors` [K, D], without holding K x K numbers."""
    unit = F.normalize(vectors)
    parts = []
    for start in range(0, len(unit), _CHUNK):
        cosine = (unit[start : start + _CHUNK] @ unit.T).clamp(-1, 1)
        other = torch.ones_like(cosine, dtype=torch.bool)
        other.diagonal(start).fill_(False)
        values = measure(cosine[other].view(len(cosine), -1))
        parts.append(torch.stack([values.mean(1), values.var(1, correction=0), values.amin(1), values.amax(1)]))
    mean, variance, low, high = torch.cat(parts, 1)
    return _Pairs(mean, low, high, (variance.mean() + mean.var(correction=0)).sqrt().item())


def _degrees(cosine: Tensor) -> Tensor:
    return cosine.arccos().rad2deg()


def _simplex(vectors: Tensor, suffix: str) -> dict[str, float]:
    """How far `vectors` [K, D] are from equal norms and from the equal, largest possible angles of a simplex: NC2."""
    norms = vectors.norm(dim=1)
    gap = _pairs(vectors, lambda cosine: (cosine + 1 / (len(vectors) - 1)).abs())
    return {
        f"nc2_norm_cv{suffix}": (norms.std(correction=0) / norms.mean()).item(),
        f"nc2_cosine_std{suffix}": _pairs(vectors).std,
        f"nc2_cosine_gap{suffix}": gap.mean.mean().item(),
    }


def _spread_out(values: Tensor, present: Tensor, classes: int) -> list[float | None]:
    """`values` of the classes `present` as a list over all classes, None for the others."""
    known = dict(zip(present.tolist(), values.tolist(), strict=True))
    return [known.get(c) for c in range(classes)]
