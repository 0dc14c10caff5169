"""Whether a probability can be believed, and what is won by answering only where it is high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Confidence bins with images: mean `confidence`, `accuracy`, `hits` and `images` [bins], and the calibration error."""

    confidence: np.ndarray
    accuracy: np.ndarray
    hits: np.ndarray
    images: np.ndarray
    ece: float


def reliability(probability: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Of the predicted classes' `probability` [N] and whether they were `correct`, bool [N], in equal-width bins.

    Bin b holds the probabilities in (b / bins, (b + 1) / bins], as in the expected calibration error of Guo et al. (ICML
    2017), which is the mean over images of abs(accuracy - confidence) of their bin.
    """
    index = np.clip(np.ceil(probability * bins) - 1, 0, bins - 1).astype(int)
    images = np.bincount(index, minlength=bins)
    confidence = np.bincount(index, probability, bins)
    hits = np.bincount(index, correct, bins)
    used = images > 0
    ece = np.abs(hits - confidence).sum() / max(len(probability), 1)
    images, hits, confidence = images[used], hits[used], confidence[used]
    return Reliability(confidence / images, hits / images, hits, images, float(ece))


def risk_coverage(probability: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answering only the images with the highest `probability`: for each number of them the share that is answered and
    the share of wrong answers, float64 [N] each (El-Yaniv and Wiener, JMLR 2010)."""
    order = np.argsort(-probability, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / max(len(order), 1), np.cumsum(~correct[order]) / answered


@dataclass(frozen=True)
class Threshold:
    """To be right in `accuracy` of the answers, answer from this `probability` on: then `covered` of the images are.

    `probability` and `covered` are None where no threshold reaches it.
    """

    accuracy: float
    probability: float | None
    covered: float | None


def thresholds(
    probability: np.ndarray, correct: np.ndarray, accuracies: Sequence[float] = (0.8, 0.9, 0.95, 0.99)
) -> list[Threshold]:
    """For each of `accuracies` the lowest threshold at which it is reached. Images of equal probability are answered
    together or not at all."""
    share, risk = risk_coverage(probability, correct)
    ordered = np.sort(probability)[::-1]
    whole = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    found = []
    for accuracy in accuracies:
        reached = np.flatnonzero(whole & (1 - risk >= accuracy - 1e-12))
        if len(reached):
            last = reached[-1]
            found.append(Threshold(accuracy, float(ordered[last]), float(share[last])))
        else:
            found.append(Threshold(accuracy, None, None))
    return found
