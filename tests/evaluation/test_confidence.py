"""Reliability, risk and coverage against loops that do it the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longtail.classes import Classes
from longtail.evaluation.accuracy import Evaluator
from longtail.evaluation.confidence import reliability, risk_coverage, thresholds


@pytest.fixture(scope="module")
def answers():
    """Scores of 500 images, the probability given to the best class, and whether it was right."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (500,), generator=draw)
    logits = 2 * torch.randn(500, 6, generator=draw)
    logits[torch.arange(500), labels] += 2
    probability, predicted = logits.double().softmax(1).max(1)
    return logits, labels, probability.numpy(), (predicted == labels).numpy()


def test_the_calibration_error_is_the_evaluators(answers):
    logits, labels, probability, correct = answers
    evaluator = Evaluator(Classes(tuple("abcdef"), (9, 9, 9, 9, 9, 9)))
    evaluator.update(logits, labels)
    measured = reliability(probability, correct)
    assert measured.ece == pytest.approx(evaluator.compute()["ece"], abs=1e-6)
    assert measured.images.sum() == 500
    assert measured.hits.sum() == correct.sum()
    assert (measured.accuracy * measured.images).sum() == pytest.approx(correct.sum())
    assert (np.diff(measured.confidence) > 0).all()


def test_risk_and_coverage_agree_with_a_loop(answers):
    _, _, probability, correct = answers
    covered, risk = risk_coverage(probability, correct)
    order = sorted(range(500), key=lambda i: -probability[i])
    for answered in (1, 7, 250, 500):
        wrong = sum(not correct[i] for i in order[:answered])
        assert covered[answered - 1] == answered / 500
        assert risk[answered - 1] == pytest.approx(wrong / answered)


def test_a_threshold_gives_the_accuracy_that_was_asked_for_and_no_lower_one_does(answers):
    _, _, probability, correct = answers
    found = thresholds(probability, correct, (0.5, 0.8, 0.9))
    for threshold in found:
        answered = probability >= threshold.probability
        assert correct[answered].mean() >= threshold.accuracy
        assert answered.mean() == threshold.covered
        lower = [p for p in probability if p < threshold.probability]
        assert all(correct[probability >= p].mean() < threshold.accuracy for p in lower)


def test_images_of_one_probability_are_answered_together():
    found = thresholds(np.array([0.9, 0.9, 0.5]), np.array([True, False, True]), (0.6, 0.9))
    assert (found[0].probability, found[0].covered) == (0.5, 1)
    assert (found[1].probability, found[1].covered) == (None, None)
