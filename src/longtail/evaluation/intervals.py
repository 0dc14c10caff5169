"""How sure an accuracy is, from the number of images behind it."""

from __future__ import annotations

import numpy as np

Z = 1.959963984540054  # of a standard normal, 95 % lie within


def wilson(hits: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % score intervals of `hits` right out of `images`, both [C]: lower and upper ends float64 [C].

    Wilson, JASA 1927: unlike the normal approximation it holds for three images, and for none or all of them right.
    Without images it is 0 to 1.
    """
    hits, n = np.asarray(hits, float), np.asarray(images, float)
    share = np.divide(hits, n, out=np.full_like(hits, 0.5), where=n > 0)
    centre = (n * share + Z**2 / 2) / (n + Z**2)
    half = Z * np.sqrt(n * share * (1 - share) + Z**2 / 4) / (n + Z**2)
    # Rounding may put an end a hair on the wrong side of 0, of 1 or of the share itself.
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, 1)
    return np.where(n > 0, np.minimum(low, share), 0.0), np.where(n > 0, np.maximum(high, share), 1.0)


def mean_interval(hits: np.ndarray, images: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of the classes' accuracies, over the classes with images; None where there are none.

    The classes' Wilson intervals are combined by square-and-add (Zou and Donner, Statistics in Medicine 2008), which
    keeps a class of three images, all of them right, from looking certain.
    """
    tested = np.asarray(images) > 0
    if not tested.any():
        return None
    hits, images = np.asarray(hits, float)[tested], np.asarray(images, float)[tested]
    accuracy = hits / images
    low, high = wilson(hits, images)
    below = np.sqrt(np.square(accuracy - low).sum()) / len(hits)
    above = np.sqrt(np.square(high - accuracy).sum()) / len(hits)
    return max(0.0, float(accuracy.mean() - below)), min(1.0, float(accuracy.mean() + above))
