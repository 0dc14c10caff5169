"""Probabilities for the images a model will meet: temperature and class mix fitted to held-out images, the mix of unlabelled
ones, and thresholds. Everything is float64; N images, C classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import LongtailError

Wanted = Literal["precision", "recall"]


def adjust(logits: Tensor, temperature: float, shift: Tensor | None) -> Tensor:
    """Scores [N, C] over the temperature, plus `shift` [C]: what the softmax makes probabilities of."""
    scores = logits / temperature
    return scores if shift is None else scores + shift


def prior_shift(target: Tensor, training: Tensor, exponent: float) -> Tensor:
    """What turns scores for classes in proportion to ``training ** exponent`` into scores for the shares `target`: [C].

    Both are shares [C] that sum to 1. Bayes' rule with another prior, as in Saerens et al., Neural Computation 2002, eq. 2.4;
    a share of 0 rules the class out.
    """
    return target.log() - exponent * training.log()


def fit_scores(logits: Tensor, labels: Tensor, training_counts: Tensor) -> tuple[float, float]:
    """Temperature and prior exponent with which held-out images are likeliest: logits [N, C], labels int64 [N], counts [C].

    Scores are taken as log-posteriors, up to a temperature T (Guo et al., ICML 2017), for classes in proportion to
    n_c ** a: a is 1 for plain cross-entropy, 0 for a method that scores all classes as equally frequent. The held-out
    images' own class mix is known, so that p(c | x) = softmax(z / T + log(mix) - a log(n)), and 1 / T and a are the two
    coefficients of a convex problem. Classes without a held-out image take no part.

    Raises `LongtailError` for fewer than two classes, and where scores say nothing about the labels.
    """
    present, own = labels.unique(return_inverse=True)
    if len(present) < 2:
        raise LongtailError("Probabilities cannot be fitted to held-out images of fewer than two classes.")
    scores = logits.double()[:, present]
    mix = own.bincount().double().log()
    rarity = -training_counts.double()[present].log()
    rarity = rarity - rarity.mean()
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    scale = scores.std().clamp(min=1e-12)  # so that both parameters are of the order of 1

    def loss() -> Tensor:
        optimiser.zero_grad()
        fitted = parameters[0] * scores / scale + parameters[1] * rarity + mix
        value = torch.nn.functional.cross_entropy(fitted, own)
        value.backward()
        return value

    optimiser.step(loss)
    inverse, exponent = (parameters.detach() / torch.stack([scale, torch.ones_like(scale)])).tolist()
    if not inverse > 1e-6:
        raise LongtailError("The model's scores say nothing about the labels of these images: are they of its classes?")
    return 1 / inverse, exponent


def estimate_prior(probabilities: Tensor, prior: Tensor, tolerance: float = 1e-7, steps: int = 10_000) -> Tensor:
    """The class shares [C] of unlabelled images, from their probabilities [N, C] under the shares `prior` [C].

    Expectation maximisation of Saerens et al. (Neural Computation 2002, eq. 2.9): the maximum likelihood estimate, which is
    unique where classes can be told apart.
    """
    ratios = probabilities.double() / prior.double()
    shares = prior.double().clone()
    for _ in range(steps):
        posterior = ratios * shares
        following = (posterior / posterior.sum(1, keepdim=True)).mean(0)
        if (following - shares).abs().max() < tolerance:
            return following
        shares = following
    return shares


@dataclass(frozen=True)
class Threshold:
    """`at`: the probability from which an image is taken for the class; what that gave on the held-out images."""

    at: float
    precision: float
    recall: float
    images: int  # of the class


def class_threshold(
    probabilities: Tensor, belongs: Tensor, weights: Tensor, wanted: Wanted, share: float
) -> Threshold | None:
    """The threshold of one class with at least this precision (and the most recall), or this recall (and the most precision
    that goes with it).

    `probabilities` [N] of the class; bool `belongs` [N] to it; `weights` [N] of the images, where they stand for another class
    mix. None where no threshold reaches `share`.
    """
    ordered, order = probabilities.double().sort(descending=True, stable=True)
    weight, own = weights.double()[order], belongs[order]
    hits = (weight * own).cumsum(0)
    # Of equal probabilities all or none are taken.
    last = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])
    precision, recall = hits / weight.cumsum(0), hits / hits[-1]
    reached = (last & (hits > 0) & ((precision if wanted == "precision" else recall) >= share - 1e-12)).nonzero()[:, 0]
    if not len(reached):
        return None
    place = reached[precision[reached].argmax()] if wanted == "recall" else reached[-1]
    return Threshold(ordered[place].item(), precision[place].item(), recall[place].item(), int(belongs.sum()))
