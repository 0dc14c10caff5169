"""How far predictions lean towards frequent classes, and what that costs where the classes' mix is another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictions import Predictions

# Of Hong et al. (CVPR 2021), LADE: exponential mixes in the order of training ("forward") or against it.
MIXES = (50, 25, 10, 5, 2)


@dataclass(frozen=True)
class Groups:
    """Which classes count as `rare` and as `frequent`, bool [C] each, and what to call them."""

    rare: np.ndarray
    frequent: np.ndarray
    rare_name: str
    frequent_name: str


def groups(predictions: Predictions) -> Groups:
    """Few-shot and many-shot classes; where one is missing, the rarer and the more frequent half by training images.

    Classes as frequent as the middle one are in neither half: where all are, both are empty.
    """
    rare, frequent = predictions.shots == "few", predictions.shots == "many"
    if rare.any() and frequent.any():
        return Groups(rare, frequent, "few-shot", "many-shot")
    counts = np.array(predictions.classes.counts)
    middle = np.median(counts)
    return Groups(counts < middle, counts > middle, "rarer", "more frequent")


def taken_for(predictions: Predictions, truth: np.ndarray, taken: np.ndarray) -> tuple[int, int]:
    """Images of the classes `truth`, bool [C], that were predicted as one of the classes `taken`, bool [C], and how many
    images of `truth` there are. Of rare ones taken for frequent ones, the share is the false head rate."""
    of_truth = truth[predictions.labels]
    return int((of_truth & taken[predictions.predicted]).sum()), int(of_truth.sum())


def naming_rate(predictions: Predictions, members: np.ndarray) -> float | None:
    """How often the classes `members`, bool [C], are predicted over how often they are true; None where they never are."""
    true = predictions.tested[members].sum()
    return float(predictions.named[members].sum() / true) if true else None


def shifted_accuracy(predictions: Predictions) -> dict[str, float]:
    """Accuracy if the test mix were another: "forward-50" (as a training set of imbalance 50) over "uniform" to
    "backward-50" (the rarest classes most frequent).

    The mean of the classes' accuracies, weighed by the mix, over the classes with test images: no image is drawn.
    """
    order = predictions.order[predictions.tested[predictions.order] > 0]
    accuracy = predictions.accuracy[order]
    rank = np.arange(len(order)) / max(len(order) - 1, 1)

    def mixed(imbalance: float) -> float:
        weights = imbalance**-rank
        return float(weights @ accuracy / weights.sum())

    forward = {f"forward-{factor}": mixed(factor) for factor in MIXES}
    backward = {f"backward-{factor}": mixed(1 / factor) for factor in reversed(MIXES)}
    return forward | {"uniform": mixed(1)} | backward
