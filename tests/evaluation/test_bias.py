"""Leaning towards frequent classes, counted image by image."""

from __future__ import annotations

import numpy as np
import pytest

from longtail.classes import Classes
from longtail.evaluation.bias import groups, naming_rate, shifted_accuracy, taken_for
from longtail.evaluation.predictions import Predictions


def made_of(labels, predicted, counts):
    labels, predicted = np.array(labels), np.array(predicted)
    certain = np.full(len(labels), 0.9)
    names = tuple(f"class {c}" for c in range(len(counts)))
    images = [str(i) for i in range(len(labels))]
    return Predictions(Classes(names, counts), "test", images, labels, predicted, certain, certain, None)


def test_the_false_head_rate_counts_images():
    p = made_of([0, 0, 1, 2, 2, 2, 3], [0, 2, 0, 0, 1, 2, 0], (500, 50, 5, 3))
    of = groups(p)
    assert (of.rare_name, of.frequent_name) == ("few-shot", "many-shot")
    assert taken_for(p, of.rare, of.frequent) == (2, 4)
    assert taken_for(p, of.frequent, of.rare) == (1, 2)
    assert naming_rate(p, of.rare) == 2 / 4


def test_without_few_shot_classes_the_rarer_half_is_rare():
    of = groups(made_of([0], [0], (500, 400, 300, 200, 101)))
    assert of.rare.tolist() == [False, False, False, True, True]
    assert of.frequent.tolist() == [True, True, False, False, False]
    balanced = groups(made_of([0], [0], (30, 30, 30)))
    assert not balanced.rare.any()
    assert not balanced.frequent.any()


def test_a_shifted_mix_is_what_repeating_images_gives():
    """Each image of a class repeated in proportion to the mix: plain accuracy is then the shifted one."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), (8, 4, 2, 5))
    predicted = np.where(draw.random(len(labels)) < 0.6, labels, (labels + 1) % 4)
    p = made_of(labels, predicted, (30, 300, 3, 100))  # most frequent first: 1, 3, 0, 2
    rank = np.array([2, 0, 3, 1])
    shifted = shifted_accuracy(p)
    for name, factor in (("forward-50", 50), ("forward-2", 2), ("uniform", 1), ("backward-10", 1 / 10)):
        weights = (factor ** (-rank / 3))[labels] / p.tested[labels]
        assert shifted[name] == pytest.approx(np.average(predicted == labels, weights=weights))
    assert next(iter(shifted)) == "forward-50"
    assert list(shifted)[-1] == "backward-50"
    assert len(shifted) == 11
