"""Fits and thresholds against other optimisers, brute force, and worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from longtail.errors import LongtailError
from longtail.evaluation.calibration import (
    adjust,
    class_threshold,
    estimate_prior,
    fit_scores,
    prior_shift,
)

COUNTS = torch.tensor([500, 100, 20, 4])
TRAINING = COUNTS.double() / COUNTS.sum()


def world(images: int, mix: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods log p(x | c) float64 [N, 4] and labels [N] of points of four Gaussians drawn in the shares `mix`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(mix.double(), images, replacement=True, generator=generator)
    centres = torch.tensor([[0.0, 0], [2, 0], [0, 2], [2, 2]], dtype=torch.float64)
    points = centres[labels] + torch.randn(images, 2, generator=generator, dtype=torch.float64)
    return -((points[:, None] - centres) ** 2).sum(2) / 2, labels


@pytest.mark.parametrize("mix", [TRAINING, torch.ones(4) / 4], ids=["as trained", "balanced"])
@pytest.mark.parametrize(("temperature", "exponent"), [(1.0, 1.0), (2.5, 0.0), (0.4, 0.6)])
def test_temperature_and_exponent_of_a_known_world(mix, temperature, exponent):
    likelihoods, labels = world(20_000, mix)
    logits = temperature * (likelihoods + exponent * TRAINING.log())
    found = fit_scores(logits, labels, COUNTS)
    assert found == pytest.approx((temperature, exponent), rel=0.06, abs=0.06)


def test_the_fit_is_the_optimum_that_scipy_finds():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(200, 4, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0]
    assert len(labels.unique()) == 4

    def nll(parameters):
        shift = np.log(np.bincount(labels) / 200) - parameters[1] * np.log(COUNTS.numpy())
        return -log_softmax(parameters[0] * logits.double().numpy() + shift, axis=1)[range(200), labels].mean()

    inverse, exponent = minimize(nll, [1.0, 0.0], tol=1e-10).x
    assert fit_scores(logits, labels, COUNTS) == pytest.approx((1 / inverse, exponent), abs=1e-4)


def test_classes_without_held_out_images_take_no_part():
    likelihoods, labels = world(3000, torch.tensor([0.5, 0.3, 0.2, 0.0]))
    without = fit_scores(likelihoods[:, :3], labels, COUNTS[:3])
    assert fit_scores(likelihoods, labels, COUNTS) == pytest.approx(without, rel=1e-5)


def test_training_on_balanced_classes_leaves_no_exponent_to_find():
    likelihoods, labels = world(2000, torch.ones(4) / 4)
    temperature, exponent = fit_scores(3 * likelihoods, labels, torch.tensor([7, 7, 7, 7]))
    assert temperature == pytest.approx(3, rel=0.1)
    assert exponent == 0


def test_scores_that_cannot_be_fitted():
    likelihoods, labels = world(500, TRAINING)
    with pytest.raises(LongtailError, match="say nothing about the labels"):
        fit_scores(-likelihoods, labels, COUNTS)
    with pytest.raises(LongtailError, match="fewer than two classes"):
        fit_scores(likelihoods, torch.zeros_like(labels), COUNTS)


def test_the_estimated_mix_is_the_likeliest_and_near_the_truth():
    truth = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    likelihoods, _ = world(5000, truth, seed=2)
    probabilities = (likelihoods + TRAINING.log()).softmax(1)  # of a model that believes in the training mix
    found = estimate_prior(probabilities, TRAINING)

    def nll(free):
        shares = np.exp(log_softmax(free))
        return -np.log((np.exp(likelihoods.numpy()) * shares).sum(1)).mean()

    best = np.exp(log_softmax(minimize(nll, np.zeros(4), tol=1e-10).x))
    np.testing.assert_allclose(found, best, atol=1e-3)
    np.testing.assert_allclose(found, truth, atol=0.03)


def test_another_mix_is_bayes_rule():
    """Scores of a long-tailed posterior, shifted to the uniform mix, are the posterior of balanced classes."""
    likelihoods, _ = world(50, TRAINING)
    scores = 1.7 * (likelihoods + TRAINING.log())
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    found = adjust(scores, 1.7, prior_shift(uniform, TRAINING, 1.0)).softmax(1)
    torch.testing.assert_close(found, likelihoods.softmax(1))
    ruled_out = prior_shift(torch.tensor([1.0, 1, 1, 0]).double() / 3, TRAINING, 1.0)
    assert adjust(scores, 1.7, ruled_out).softmax(1)[:, 3].max() == 0


@pytest.mark.parametrize("wanted", ["precision", "recall"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_thresholds_against_trying_all(wanted, share, weighted):
    rng = np.random.default_rng(3)
    probabilities = rng.random(60).round(1)  # with many ties
    belongs = rng.random(60) < probabilities
    weights = rng.random(60) if weighted else np.ones(60)
    tried = []
    for at in np.unique(probabilities):
        taken = probabilities >= at
        hits = weights[taken & belongs].sum()
        tried.append((at, hits / weights[taken].sum(), hits / weights[belongs].sum()))
    column, other = (1, 2) if wanted == "precision" else (2, 1)
    able = [row for row in tried if row[column] >= share - 1e-12 and row[2] > 0]
    found = class_threshold(*map(torch.tensor, (probabilities, belongs, weights)), wanted, share)
    if not able:
        assert found is None
        return
    best = max(able, key=lambda row: row[other])
    assert (found.at, found.precision, found.recall) == pytest.approx(best)
    assert found.images == belongs.sum()
