"""Images worth a look: the most wrong of rare classes, doubtful labels, and test images much like training images."""

from __future__ import annotations

import logging

import numpy as np

from ..evaluation.bias import groups
from ..evaluation.predictions import Predictions

SHOWN = 24  # images of each kind


def most_wrong(predictions: Predictions) -> np.ndarray:
    """Images of rare classes, int64 [at most `SHOWN`], that were given to another class with the highest probability."""
    of = groups(predictions)
    rare = of.rare if of.rare.any() else np.ones(len(predictions.classes), bool)
    wrong = np.flatnonzero(~predictions.correct & rare[predictions.labels])
    return wrong[np.argsort(-predictions.probability[wrong], kind="stable")][:SHOWN]


def doubtful_labels(predictions: Predictions) -> tuple[np.ndarray | None, str]:
    """Images whose label confident learning doubts (Northcutt et al., JAIR 2021), int64, the most doubtful first, and a
    line that says how they were found, or why they were not looked for (None).

    Of classes that the model gets wrong more often than right none is named: there the model is the likelier culprit.
    """
    if predictions.logits is None:
        return None, "Not looked for: the scores of all classes were not kept, being too many or of an earlier version."
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None, "Not looked for: this needs cleanlab, which `pip install 'longtail[report]'` brings."
    shifted = np.exp(predictions.logits.astype(np.float64) - predictions.logits.max(1, keepdims=True))
    known = np.flatnonzero(predictions.accuracy >= 0.5)  # NaN without images
    if len(known) < 2:
        return None, "Not looked for: the model gets fewer than two classes right more often than wrong."
    rows = np.flatnonzero(np.isin(predictions.labels, known))
    chances = shifted[np.ix_(rows, known)]
    logging.getLogger("cleanlab").setLevel(logging.ERROR)
    found = find_label_issues(
        np.searchsorted(known, predictions.labels[rows]),
        chances / chances.sum(1, keepdims=True),
        filter_by="both",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    about = (
        f"Looked for by confident learning among the {len(rows):,} images of the {len(known):,} classes that the model"
    )
    return rows[found], f"{about} gets right at least half the time."
