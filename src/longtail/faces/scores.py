"""Face verification and identification: from embeddings or scores to the field's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..classes import SHOTS, Classes
from ..errors import LongtailError, UsageError
from ..files import write_atomically

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_CHUNK = 8192  # rows worked on together: 8192 x 8192 similarities are 256 MB


def normalise(embeddings: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """`embeddings` [N, D] at unit length, float32. `names`: what to call each.

    Raises `LongtailError`, naming the first, where one has zero length or is not finite: it has no direction to
    compare.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        raise LongtailError(
            f"{len(bad)} of {len(embeddings)} embeddings cannot be compared, first that of '{names[bad[0]]}': its "
            f"length is {lengths[bad[0], 0]:g}. Check the model and the image."
        )
    return (embeddings / lengths).astype(np.float32)


def pair_scores(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine similarity of pairs of rows of unit `embeddings` [N, D]: positions [P] and [P] -> float32 [P]."""
    chunks = range(0, len(left), _CHUNK)
    rows = (np.einsum("pd,pd->p", embeddings[left[i : i + _CHUNK]], embeddings[right[i : i + _CHUNK]]) for i in chunks)
    return np.concatenate([np.empty(0, np.float32), *rows])


@dataclass(frozen=True)
class Roc:
    """Shares of impostor (`far`) and of genuine pairs (`tar`) whose score is at least `thresholds`: float64 [T] each.

    Thresholds are the different scores, descending, after +infinity, where both shares are 0. `impostors`, `genuine`:
    the numbers of pairs behind the shares.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray
    impostors: int
    genuine: int

    def tar_at(self, far: float) -> float | None:
        """The largest share of genuine pairs accepted while at most `far` of the impostor pairs are.

        None, not measurable, with fewer than 1 / `far` impostor pairs: not one of them could then be accepted, and the
        figure would speak of a rarer event than it names. None as well without genuine pairs.
        """
        if not self.genuine or self.impostors * far < 1 - 1e-9:
            return None
        # A share that equals `far` but for rounding counts as equal.
        return float(self.tar[np.searchsorted(self.far, far * (1 + 1e-9), side="right") - 1])


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """The ROC curve of `scores` [P] (higher: more alike) and `same` bool [P], every threshold that matters."""
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order].astype(np.float64), same[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))[: len(scores)]
    accepted, genuine = np.cumsum(same)[last], int(same.sum())
    impostors = len(same) - genuine
    return Roc(
        far=np.append(0, (last + 1 - accepted) / max(impostors, 1)),
        tar=np.append(0, accepted / max(genuine, 1)),
        thresholds=np.append(np.inf, scores[last]),
        impostors=impostors,
        genuine=genuine,
    )


def plot_roc(curves: dict[str, Roc], path: Path) -> None:
    """Draw named ROC curves into the PNG file `path`, FAR on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.01))
    for name, curve in curves.items():
        measurable = curve.far > 0
        axes.step(curve.far[measurable], curve.tar[measurable], where="post", label=name)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold and the threshold the other folds chose for it, float64 [F]."""

    accuracies: np.ndarray
    thresholds: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Standard deviation over the folds (with F - 1) over the square root of F, as LFW's report defines it."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))


def fold_accuracy(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> FoldAccuracy:
    """LFW's View 2: each fold is judged at the threshold that is most accurate on all the others.

    `scores` float [P], `same` bool [P], `folds` int [P]. Of equally accurate thresholds the highest is taken; a
    threshold lies half-way between two scores. Raises `UsageError` for fewer than two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise UsageError(
            f"Choosing the threshold on other folds needs at least 2 folds, and these pairs have {len(numbers)}."
        )
    accuracies, thresholds = [], []
    for number in numbers:
        judged = folds == number
        thresholds.append(_best_threshold(scores[~judged], same[~judged]))
        accuracies.append(np.mean((scores[judged] >= thresholds[-1]) == same[judged]))
    return FoldAccuracy(np.array(accuracies), np.array(thresholds))


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    curve = roc(scores, same)
    right = curve.tar * curve.genuine + (1 - curve.far) * curve.impostors
    best = int(np.argmax(right))
    upper, lower = curve.thresholds[best], np.append(curve.thresholds, -np.inf)[best + 1]
    return float(upper) if np.isinf(upper) or np.isinf(lower) else float((upper + lower) / 2)


def pool_templates(embeddings: np.ndarray, templates: np.ndarray, media: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IJB's templates: the mean embedding of each medium, then the sum over a template's media.

    `embeddings` [N, D], `templates` and `media` int [N] -> the template numbers [T], ascending, and their sums [T, D],
    not normalised. Frames of one video share a medium and so count once.
    """
    order = np.lexsort((media, templates))
    templates, media = templates[order], media[order]
    new_template = np.append(True, templates[1:] != templates[:-1])
    starts = np.flatnonzero(new_template | np.append(True, media[1:] != media[:-1]))
    means = np.add.reduceat(embeddings[order], starts) / np.diff(np.append(starts, len(order)))[:, None]
    return templates[new_template], np.add.reduceat(means, np.flatnonzero(new_template[starts]))


def nearest(probes: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each unit probe [N, D] the most similar row of unit `gallery` [G, D]: its position and similarity, [N]."""
    position, best = np.zeros(len(probes), np.int64), np.full(len(probes), -np.inf, np.float32)
    for rows, columns, block in _similarities(probes, gallery):
        winner = block.argmax(1)
        value = np.take_along_axis(block, winner[:, None], 1)[:, 0]
        better = value > best[rows]
        position[rows] = np.where(better, winner + columns.start, position[rows])
        best[rows] = np.maximum(best[rows], value)
    return position, best


def _similarities(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Blocks of `left` @ `right`.T, with the rows and the columns they cover."""
    for i in range(0, len(left), _CHUNK):
        for j in range(0, len(right), _CHUNK):
            yield slice(i, i + _CHUNK), slice(j, j + _CHUNK), left[i : i + _CHUNK] @ right[j : j + _CHUNK].T


@dataclass(frozen=True)
class Identification:
    """MegaFace's figures. `rank1`: share of probes that found their mate before every distractor. `tar`: TAR at each
    FAR, None where not measurable."""

    rank1: float
    tar: dict[float, float | None]


def identify(
    probes: np.ndarray, identities: np.ndarray, distractors: np.ndarray, fars: Sequence[float] = (1e-4, 1e-5, 1e-6)
) -> Identification:
    """Closed-set identification among distractors, as in MegaFace: each image of a person looks for each other image of
    them, hidden among all `distractors`.

    Unit embeddings `probes` [N, D] of `identities` int [N], and `distractors` [M, D] of other people. Impostor scores
    are those of probes with distractors; only as many of the highest are kept as the largest measurable FAR needs.
    Raises `UsageError` if no person has two images, or without distractors.
    """
    order = np.argsort(identities, kind="stable")
    probes, identities = probes[order], identities[order]
    left, right = _mates(identities)
    if not len(left) or not len(distractors):
        raise UsageError("Identification needs a person with at least two images and at least one distractor.")
    genuine = pair_scores(probes, left, right)
    impostors = len(probes) * len(distractors)
    kept = int(max(fars) * impostors) + 1
    closest, highest, floor = np.full(len(probes), -np.inf, np.float32), np.empty(0, np.float32), -np.inf
    for rows, _, block in _similarities(probes, distractors):
        closest[rows] = np.maximum(closest[rows], block.max(1))
        highest = np.append(highest, block[block > floor])
        if len(highest) > kept:
            highest = np.partition(highest, -kept)[-kept:]
            floor = highest[0]
    highest = np.sort(highest)[::-1]
    tar = {}
    for far in fars:
        allowed = int(far * impostors * (1 + 1e-9))
        # The score of the first impostor too many: genuine pairs must be above it.
        limit = highest[allowed] if allowed < len(highest) else -np.inf
        tar[far] = float(np.mean(genuine > limit)) if allowed else None
    return Identification(float(np.mean(genuine > closest[left])), tar)


def _mates(identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different positions with the same number in sorted `identities`."""
    _, starts, counts = np.unique(identities, return_index=True, return_counts=True)
    groups = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True) if count > 1]
    pairs = [(np.repeat(group, len(group)), np.tile(group, len(group))) for group in groups]
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return left[left != right], right[left != right]


def accuracy_by_shots(correct: np.ndarray, labels: np.ndarray, classes: Classes) -> dict[str, float | None]:
    """Accuracy of identities by their number of training images: "many", "medium", "few".

    `correct` bool [N] and the true `labels` int [N] of the images judged -> for each group the mean, over its
    identities with at least one image, of the identity's accuracy; None for a group without any.
    """
    judged = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels, weights=correct, minlength=len(classes))
    groups = {shot: (np.array(classes.shots) == shot) & (judged > 0) for shot in SHOTS}
    return {
        shot: float(np.mean(right[group] / judged[group])) if group.any() else None for shot, group in groups.items()
    }
